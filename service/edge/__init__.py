"""Faces the client: the Messages API, health, client keys. Knows Litestar and ASGI; no Redis, no provider."""
