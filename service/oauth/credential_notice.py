"""What is wrong with a subscription's credential, in the words that all processes get to read.

Not here: finding it out (`token_manager`), and telling it (`credentials`). Paths and details are in the log alone.
"""

from msgspec import Struct

from service.ledger.events import NoticeCode

EXPIRED, EXPIRES = "its token has expired", "its token expires soon"
WORDS: dict[NoticeCode, str] = {
    "absent": "there is no login; log in with Claude Code, or set CLAUDE_CODE_OAUTH_TOKEN",
    "unreadable": "its credentials file can't be read; repair it, or log in with Claude Code again",
    "expired": "{0}, and this proxy can't refresh it: {1}; log in with Claude Code again",
    "ended": "its login has ended; log in with Claude Code again (claude /login)",
    "not_refreshed": "{0}, and was not refreshed: the token endpoint {1}",
    "not_saved": "its new token could not be saved; make the credentials file writable",
    "task": "nothing keeps its token fresh: unexpected {1}; see the log, and please report it",
}


class CredentialNotice(Struct, frozen=True):
    """A code and its words; `usable`: the token is valid for now. Without a code all is well."""

    code: NoticeCode = ""
    usable: bool = False
    message: str = ""


ALL_WELL = CredentialNotice()


def notice_of(code: NoticeCode, detail: str = "", *, usable: bool = False) -> CredentialNotice:
    """Return the notice of a finding."""
    return CredentialNotice(code, usable, WORDS[code].format(EXPIRES if usable else EXPIRED, detail))
