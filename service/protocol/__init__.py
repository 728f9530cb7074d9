"""The bytes of the Messages API: event streams, usage, bodies, encodings. Without I/O."""
