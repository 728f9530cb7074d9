"""Attacks on the proxy, byte for byte over raw sockets, each with the outcome that is right."""
