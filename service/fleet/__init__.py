"""State shared by all replicas through Redis: outbox, spool, snapshots, admission, resource index, fleet time."""
