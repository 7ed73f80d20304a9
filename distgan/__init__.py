"""Everything that happens to a batch: from the network to the report."""

__version__ = "0.1.0"
