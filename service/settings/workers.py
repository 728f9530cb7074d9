"""The variables that the workers see, and their settings; and the settings of a command that reads the invoice.

Workers fold events and send nothing to providers. So no provider key, client key or admin token is in their memory, or
in the environment that the kernel shows of them. Not here: which variables those are (declared with each setting).
"""

import os
from collections.abc import Mapping
from pathlib import Path

from service.settings.files import File, read_dotenv, read_file, with_secret_files
from service.settings.invoice import FOR_INVOICE, InvoiceSettings
from service.settings.loading import build, texts
from service.settings.reader import Reader
from service.settings.routes import providers_of
from service.settings.shapes import Settings
from service.settings.variables import FOR_WORKERS, SECRETS

FILES = tuple(f"{name}_FILE" for name in SECRETS if name in FOR_WORKERS)
OF_THE_SYSTEM = (
    "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "LOGNAME", "PATH", "SSL_CERT_DIR", "SYSTEMROOT",
    "TERM", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "XDG_STATE_HOME",
)  # fmt: skip
PREFIXES = ("COVERAGE_", "KRB5", "LC_", "MALLOC_", "OPENSSL_", "PG", "PYTHON")
"""Languages, libpq and its logins, and Python itself."""


def is_for_workers(name: str) -> bool:
    """Return true if a worker may have a variable."""
    return name in FOR_WORKERS or name in FILES or name in OF_THE_SYSTEM or name.startswith(PREFIXES)


def worker_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that a worker may have."""
    return {name: value for name, value in environ.items() if is_for_workers(name)}


def load_for_workers() -> Settings:
    """The settings of workers and their commands: as from `load`, but from FOR_WORKERS alone. Raises SettingsError.

    Their routes have no credentials, whatever `.env`, the TOML file or the environment has.
    """
    variables = worker_environ(read_dotenv(Path(".env")) | os.environ)
    file, origin = read_file(None, variables)
    variables = worker_environ(texts(file.env)) | variables
    return build(
        Reader(with_secret_files(variables, [name for name in SECRETS if name in FOR_WORKERS])),
        File(prices=file.prices),
        origin,
    )


def load_for_invoice() -> InvoiceSettings:
    """The settings of `ccproxy reconcile`: the admin key, its address, and no other secret. Raises SettingsError."""
    variables = read_dotenv(Path(".env")) | os.environ
    file, origin = read_file(None, variables)
    variables = with_secret_files(texts(file.env) | variables, [name for name in SECRETS if name in FOR_INVOICE])
    own = {name: value for name, value in variables.items() if name in FOR_INVOICE}
    read = Reader(own)
    return read.read(InvoiceSettings, routes=billed_routes(file, read, origin))


def billed_routes(file: File, read: Reader, origin: str) -> tuple[str, ...]:
    """The routes with an API key of Anthropic's: a subscription, other providers and clients' own are not on its
    invoice."""
    providers = providers_of(file, read, origin)
    of_file = [
        entry.id
        for entry in file.routes
        if entry.auth == "api_key" and entry.provider in providers and providers[entry.provider].dialect == "anthropic"
    ]
    return tuple(of_file) if file.routes else (providers["anthropic"].id,)
