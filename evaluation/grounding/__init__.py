"""Groundedness on labelled answers: how well it tells supported from unsupported, beside what costs nothing."""
