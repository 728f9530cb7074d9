"""Relays one request: the plan, its attempts, the answer, and what is written down. `request` is the page to read."""

from service.relay.attempt import ClientRequest, ResponseWriter
from service.relay.request import Relay

__all__ = ["ClientRequest", "Relay", "ResponseWriter"]
