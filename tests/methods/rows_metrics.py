"""Methods that measure the radius otherwise."""

ROWS = []
