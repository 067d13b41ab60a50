"""Measures retrieval: `make bench-retriever`, see README.md."""
