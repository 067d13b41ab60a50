"""Kills the retriever and its Milvus Lite again and again: `make chaos-retriever`, see README.md."""
