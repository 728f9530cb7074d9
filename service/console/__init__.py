"""The operators' interface: admin API, dashboard, metrics and the original proxy's endpoints."""
