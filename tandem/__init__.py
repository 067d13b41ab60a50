"""Contracts, client SDK and the ground that every Tandem service stands on."""
