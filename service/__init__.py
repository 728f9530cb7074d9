"""Claude Code Proxy: relays Messages API requests along a chain of routes and keeps an exact ledger of them."""
