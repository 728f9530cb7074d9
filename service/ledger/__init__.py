"""The ledger: events, folded state, fold, snapshots and wire format.

Pure: nothing here reads settings, a clock, a random source, the network or the disk. Proxies and workers share this
package, so that both derive the same ledger from the same events.
"""
