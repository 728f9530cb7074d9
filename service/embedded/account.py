"""The user account of the embedded servers: Postgres refuses to run as root.

There are two ways, and the first that works is used. `drop`: become `nobody`, who needs access to both the programs and
the data. `namespace`: stay root outside and be `nobody` in a Linux user namespace, with root's access to files (a 0700
home, say). They give the files different owners, so the choice is recorded in the data folder and kept. Not here:
switching to the account (`child_bootstrap`).
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from service.embedded import EmbeddedError, folder

Way = Literal["self", "drop", "namespace"]
NOBODY = "nobody"


class Account(NamedTuple):
    """The account of a process. `uid` and `gid` are meaningless if `way` is `self`."""

    way: Way
    uid: int = 0
    gid: int = 0

    def own(self, path: Path) -> None:
        """Change the owner of `path` to this account, if it is another one than ours."""
        if self.way == "drop":
            os.chown(path, self.uid, self.gid)


SELF = Account("self")


def check_owner(place: Path) -> None:
    """Raise EmbeddedError if `place` belongs to another user: we could not read the data, or would break it."""
    owner = place.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedError(
            f"{place} belongs to the user with id {owner}, and you are {os.geteuid()}. "
            "Run as that user, or set CCPROXY_HOME to another folder."
        )


def choose(place: Path, works: Callable[[Account], bool]) -> Account:
    """Choose and record the account for the server in folder `place`. `works` tests a candidate."""
    note = place / "account"
    known = folder.read(note)
    if known is not None:
        return _again(place, known, works)
    account = next((candidate for candidate in _candidates() if works(candidate)), None)
    if account is None:
        raise EmbeddedError(
            f"Postgres refuses to run as root, `{NOBODY}` can't access {place} and the programs, and this machine does "
            "not allow user namespaces. Run as a normal user, or set CCPROXY_HOME to a folder that every account can "
            "enter (such as /var/lib/ccproxy), or set DATABASE_URL and REDIS_URL to running servers."
        )
    folder.write_private(note, f"{account.way}\n")
    return account


def _candidates() -> tuple[Account, ...]:
    if os.geteuid() != 0:
        return (SELF,)
    return (_nobody("drop"), _nobody("namespace")) if sys.platform == "linux" else (_nobody("drop"),)


def _again(place: Path, known: str, works: Callable[[Account], bool]) -> Account:
    way = next((way for way in get_args(Way) if way == known), None)
    if way is None:
        raise EmbeddedError(f"{place / 'account'} holds {known[:40]!r}, expected one of {', '.join(get_args(Way))}.")
    if (way == "self") == (os.geteuid() == 0):
        maker = "a normal user" if way == "self" else "root"
        raise EmbeddedError(
            f"The data in {place} was created by {maker}. Run as that user, or set CCPROXY_HOME to another folder."
        )
    account = SELF if way == "self" else _nobody(way)
    if not works(account):
        raise EmbeddedError(
            f"The data in {place} belongs to a server that ran in the mode `{way}`, which this machine no longer "
            "allows. Make the folder and the programs accessible again, or set CCPROXY_HOME to another folder."
        )
    return account


def _nobody(way: Way) -> Account:
    import pwd  # not at the top: Windows, where this module is imported but never used, has no such module

    try:
        entry = pwd.getpwnam(NOBODY)
    except KeyError:
        raise EmbeddedError(
            f"This machine has no account `{NOBODY}` to run the servers as. Run as a normal user."
        ) from None
    return Account(way, entry.pw_uid, entry.pw_gid)
