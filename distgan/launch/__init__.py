"""Who calls the training loop, and who holds the workers together."""
