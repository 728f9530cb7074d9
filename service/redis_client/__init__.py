"""How Redis is reached: one server, Sentinel or Cluster, with or without TLS."""
