"""What routing looks at: the ledgers as this process knows them. The watcher makes it; nothing here changes it."""

from msgspec import Struct, field

from service.ledger.state import ControlLedger, RouteLedger

NO_LEDGER = RouteLedger()
"""What is known of a route that nobody used yet. Never changed."""


class View(Struct):
    """Snapshot and overlay together. `replica` is who looks: its own failures weigh at once."""

    replica: str = ""
    routes: dict[str, RouteLedger] = field(default_factory=dict)
    control: ControlLedger = field(default_factory=ControlLedger)

    def ledger(self, route_id: str) -> RouteLedger:
        """The ledger of a route, an empty one when nothing happened there."""
        return self.routes.get(route_id, NO_LEDGER)
