"""Measures how well questions inside an adapter's scope are told from those outside."""
