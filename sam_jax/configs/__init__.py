"""The configs that are shipped, one file for each family of experiments."""
