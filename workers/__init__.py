"""The worker processes: they fold event streams into an exact ledger in Postgres and publish snapshots to Redis.

They import a listed part of `service` (`ledger`, `settings`, `errors`, `redis_client`, `telemetry.log`); the proxies
never import them.
"""
