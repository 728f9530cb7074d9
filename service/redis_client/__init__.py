"""Connections to Redis: one server, Sentinel or Cluster, with or without TLS."""
