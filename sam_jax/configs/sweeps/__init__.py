"""The sweeps that are shipped."""
