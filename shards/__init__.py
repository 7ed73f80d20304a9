"""The data set on disk: sources, writer, index, reader, verify. Knows nothing of training."""
