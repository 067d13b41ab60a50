"""Runners of the peers: each is a program that speaks `protocol` and imports what its own environment holds."""
