"""The dashboard in a real browser, before a whole installation."""
