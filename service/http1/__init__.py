"""HTTP/1.1 client for the providers, behind httpx's transport interface."""
