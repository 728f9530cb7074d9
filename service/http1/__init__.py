"""The HTTP/1.1 client towards the providers, behind httpx's transport interface."""
