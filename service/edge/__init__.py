"""The clients' interface: the Messages API, health checks, client keys. Uses Litestar and ASGI; no Redis, no
providers."""
