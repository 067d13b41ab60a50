"""Retrieval on a folder in BEIR layout: nDCG and recall of each way to search, with intervals and waiting times."""
