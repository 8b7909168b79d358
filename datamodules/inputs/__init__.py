"""What models read of an exam: one file an input, each holding all of that input."""
