"""Versions, the build and what a release is made of."""
