"""Methods that choose another direction."""

ROWS = []
