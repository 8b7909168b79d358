"""From a hospital's files to batches."""
