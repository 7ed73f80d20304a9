"""Which samples there are, with which labels, which comes when: an index and a position become device batches."""
