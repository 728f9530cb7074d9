"""The bytes of the Messages API: event streams, usage, bodies, content encodings. No I/O."""
