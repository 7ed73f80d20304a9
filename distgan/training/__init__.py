"""The loop, and everything in it that a resumed run must find again."""
