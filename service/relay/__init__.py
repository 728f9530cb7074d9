"""Relays one request: the plan, its attempts, the response, and what is recorded. `request` is the page to read."""

from service.relay.client import ClientRequest, ResponseWriter
from service.relay.request import Relay

__all__ = ["ClientRequest", "Relay", "ResponseWriter"]
