"""Evaluation: measures what the running services give on labelled questions, as a client of theirs."""
