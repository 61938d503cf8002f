"""Methods that choose steps, examples or parameters."""

ROWS = []
