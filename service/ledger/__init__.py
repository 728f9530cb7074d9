"""What happened, and what follows from it: events, state, fold, snapshot, wire.

Pure: nothing here reads settings, a clock, a random source, the network or the disk. The proxies and the workers
share this room, so that both come to the same ledger from the same events.
"""
