"""What a batch, a loss and a score are."""
