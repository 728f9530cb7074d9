"""The workers: streams of events in, an exact ledger in Postgres and snapshots in Redis out.

They share `service.ledger` and `service.settings` with the proxies and nothing else; the proxies never import them.
"""
