"""What this machine reads and trains in a second, and how good the images are that it makes in minutes."""
