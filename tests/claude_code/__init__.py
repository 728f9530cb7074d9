"""Claude Code itself as the client, for `make test-claude-code`; never part of the default run (it needs npm)."""
