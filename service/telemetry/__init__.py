"""Logs, metrics buffers, traces, and safe terminal output."""
