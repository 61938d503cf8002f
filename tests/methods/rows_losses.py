"""Methods that look into the loss."""

ROWS = []
