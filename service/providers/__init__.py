"""Faces the upstream: its headers, its bodies, its streams and what its errors say.

The modules of rules (`protocol.sse`, `protocol.tap`, `headers`, `bodies`, `protocol.content_coding`, `error_facts`)
are pure: bytes in, bytes or facts out. They neither open connections nor decide anything about routes.
"""
