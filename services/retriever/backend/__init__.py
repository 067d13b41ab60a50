"""Speaks to Milvus and to the embedder; nothing else of the retriever does."""
