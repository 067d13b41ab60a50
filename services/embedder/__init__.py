"""Turns text into dense vectors; texts of different callers share batches on the model."""
