"""`ccproxy up`: starts, supervises and stops Postgres, Valkey, a worker and a proxy.

The outermost package: it knows the settings, but not requests, routes or the ledger. Reading order: `up` (the command),
`supervisor` (restarts), `server` with `postgres` and `valkey` (the two servers, which tests also use directly), and
below them `managed_process`, `account`, `folder` and `binaries`.
"""


class EmbeddedError(Exception):
    """Something can't be started. The message is for the terminal: it names the path and the fix."""
