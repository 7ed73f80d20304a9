"""Which sample comes when, and how it gets to the device: an index and a position become device batches."""
