"""`ccproxy up`: Postgres, Valkey, the worker and the proxy, started, watched and ended by one command.

The outermost ring: it knows the settings, and nothing of requests, routes or the ledger. The order to read it in:
`up` (the command), `supervisor` (when a child is started again), `server` with `postgres` and `valkey` (the two
servers, which tests use on their own), and below them `managed_process`, `account`, `folder` and `binaries`.
"""


class EmbeddedError(Exception):
    """Something can't be started. The message is for the terminal: it names the place and the mend."""
