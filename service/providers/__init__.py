"""Faces the upstream: its headers, its bodies, its streams and what its errors say.

The modules of rules (`sse`, `tap`, `headers`, `bodies`, `encodings`, `facts`) are pure: bytes in, bytes or facts out.
They neither open connections nor decide anything about routes.
"""
