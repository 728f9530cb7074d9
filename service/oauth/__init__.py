"""OAuth tokens of a Claude subscription: read, refreshed, and shared between hosts."""
