"""Ingestions in the background, and the spool that they survive a crash in."""
