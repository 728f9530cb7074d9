"""Mutation tests of the pure rooms: a fault is planted in the code, and a test of that room has to fail."""
