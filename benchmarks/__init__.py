"""Measures Tandem against its peers, on the machine at hand; stands on the client alone."""
