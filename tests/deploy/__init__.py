"""Containers: the files that make them, and the programs that judge these."""
