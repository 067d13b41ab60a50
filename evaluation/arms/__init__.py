"""Compares what answers: the policies of a domain, the base model, and routers computed from both."""
