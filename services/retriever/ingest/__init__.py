"""Takes documents in: parse and cut in a worker process, embed, write, in that order and overlapping."""
