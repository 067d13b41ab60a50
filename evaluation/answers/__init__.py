"""Labelled questions, the answers that the running services give them, and what those are worth."""
