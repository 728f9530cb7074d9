"""The alerts of `deploy/`, judged by promtool on series that were recorded from the product under faults."""
