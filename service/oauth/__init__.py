"""Tokens of a Claude subscription: read, refreshed, shared over hosts."""
