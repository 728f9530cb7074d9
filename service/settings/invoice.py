"""Access to Anthropic's usage and cost reports: a key that is for `ccproxy reconcile` alone.

Neither the proxy nor the workers read these variables. Not here: where their values come from (`workers`), and the
reports (`workers.invoice`).
"""

from typing import Annotated

from msgspec import Struct

from service.settings import values
from service.settings.providers import ANTHROPIC
from service.settings.secret import Secret
from service.settings.setting import Section, Setting, setting_fields


class InvoiceSettings(Struct, frozen=True):
    """The Admin API of an organization. `routes` are those whose usage is on its invoice."""

    admin_key: Annotated[
        Secret,
        Setting(
            "ANTHROPIC_ADMIN_KEY",
            Section.ANTHROPIC,
            "admin key of the organization, to compare the ledger with the invoice; only `ccproxy reconcile` reads it",
        ),
    ] = Secret("")
    admin_url: Annotated[
        str,
        Setting(
            "ANTHROPIC_ADMIN_URL",
            Section.ANTHROPIC,
            "base URL of Anthropic's Admin API; only `ccproxy reconcile` reads it",
            parse=values.http_url,
        ),
    ] = ANTHROPIC.base_url
    routes: tuple[str, ...] = ()


FOR_INVOICE = frozenset(field.setting.variable for field in setting_fields(InvoiceSettings) if field.setting)
"""Variables that only the command reads."""
