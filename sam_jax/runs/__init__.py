"""One run: from a config to a directory with what came out."""
