"""The database URL that is made of DB_* when DATABASE_URL is not set."""

from typing import Annotated
from urllib.parse import quote

from msgspec import Struct

from service.settings.address import bracketed
from service.settings.database_url import DatabaseUrl, database_address
from service.settings.reader import Reader
from service.settings.secret import Secret
from service.settings.setting import Section, Setting, setting_fields

SERVERS = Section.SERVERS
TLS = "?sslmode=verify-full&sslrootcert=system"


class DatabaseParts(Struct, frozen=True):
    """A database URL in parts."""

    host: Annotated[
        str, Setting("DB_HOST", SERVERS, "host of the database, if DATABASE_URL is not set", for_workers=True)
    ] = "localhost"
    port: Annotated[
        int,
        Setting(
            "DB_PORT",
            SERVERS,
            "port of the database, if DATABASE_URL is not set",
            least=1,
            most=65_535,
            for_workers=True,
        ),
    ] = 5432
    name: Annotated[
        str, Setting("DB_NAME", SERVERS, "name of the database, if DATABASE_URL is not set", for_workers=True)
    ] = "claude_proxy"
    user: Annotated[
        str, Setting("DB_USER", SERVERS, "user of the database, if DATABASE_URL is not set", for_workers=True)
    ] = "postgres"
    password: Annotated[
        Secret,
        Setting("DB_PASSWORD", SERVERS, "password of the database, if DATABASE_URL is not set", for_workers=True),
    ] = Secret("postgres")
    tls: Annotated[
        bool, Setting("DB_SSL", SERVERS, "`true`: TLS, with the server's certificate verified", for_workers=True)
    ] = False

    @property
    def url(self) -> str:
        """The URL."""
        user, password, name = (quote(part, safe="") for part in (self.user, self.password.reveal(), self.name))
        host = quote(self.host, safe="") if self.host.startswith("/") else bracketed(self.host.strip("[]"))
        return f"postgresql://{user}:{password}@{host}:{self.port}/{name}{TLS if self.tls else ''}"


NAMING = tuple(
    field.setting.variable for field in setting_fields(DatabaseParts) if field.setting and field.name != "tls"
)
"""Variables of which each names a database; TLS alone does not."""


def database_url(read: Reader) -> DatabaseUrl | None:
    """The URL of the parts. None, and nothing is checked, when no part is set or DATABASE_URL is used instead."""
    if read.text("DATABASE_URL") or not any(map(read.text, NAMING)):
        return None
    url: DatabaseUrl = read.parse("DB_HOST", database_address, read.read(DatabaseParts).url)
    return url
