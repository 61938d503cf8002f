"""Methods that make something else of the gradients."""

ROWS = []
