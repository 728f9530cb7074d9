"""Logs, counters and traces, and text made safe to print."""
