"""The tree of errors that the proxy itself raises. Each knows its Anthropic error type and its HTTP status.

    ProxyError                    500  api_error
    |- SettingsError                -  (start-up only; never reaches a client)
    |- ClientError                400  invalid_request_error
    |  |- BadClientKey            401  authentication_error
    |  |  `- KeyExpired
    |  |- KeyForbids              400  policy_blocked
    |  |- KeySpent                429  billing_error
    |  |- KeyBusy                 429  rate_limit_error
    |  |- PromptTooLong           400  invalid_request_error
    |  |- ThreadLost              400  invalid_request_error
    |  |- FieldUnsupported        400  invalid_request_error


    |  |- NotLoggedIn             401  authentication_error   (the admin API)
    |  |- BadReport               400  invalid_request_error
    |  |- NotAllowed              403  permission_error
    |  |- NoHost                  400  invalid_request_error
    |  |- UnknownHost             403  permission_error
    |  |- ForeignOrigin           403  permission_error
    |  |- Taken                   409  conflict_error
    |  |- AskedTooOften           429  rate_limit_error
    |  |- NotFound                404  not_found_error
    |  |- MethodNotAllowed        405  invalid_request_error
    |  |- RequestTooSlow          408  timeout_error
    |  |- BodyTooLarge            413  request_too_large
    |  |- UrlTooLong              414  invalid_request_error
    |  |- HeadTooLarge            431  invalid_request_error
    |  `- VersionNotSupported     505  invalid_request_error
    |- Stopping                   503  api_error   (this process ends, and the answer is not at its end)
    |- BodyMemoryFull             503  api_error   (the bodies of all requests take the memory set aside for them)
    |- ReportAway                 503  api_error   (no worker answered)
    `- NoRoute                    503  api_error   (no route could take the request)
       |- KeysUnknown             503  api_error   (the keys on the ledger were not read yet)
       |- HomeUnknown             503  api_error   (the index of resources is away)
       |- AllThrottled            429  rate_limit_error
       `- Unreachable             502  api_error   (every attempt failed before an answer)
          `- ProviderFailed                        (a provider's error in our words: status and type are its own)

An upstream's own error is no exception here: it is an outcome, and what the client sees of it is the plan's verdict.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class ProxyError(Exception):
    """The base class. `message` is shown to the client, so it holds no secret, and names the fix if there is one.

    `details` becomes `error.details`, by whose `error_code` the SDKs choose a class of exception.
    """

    status = 500
    type = "api_error"
    should_retry: bool | None = None
    """`x-should-retry`: tells a client if a retry makes sense; None omits it."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Headers of a provider's response that are passed on with it."""

    def __init__(
        self, message: str, *, retry_after_s: int | None = None, details: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details


class SettingsError(ProxyError):
    """The settings are invalid. The message names the place and the fix."""


class ClientError(ProxyError):
    """The request's own fault: no route is tried."""

    status = 400
    type = "invalid_request_error"
    should_retry = False


class BadClientKey(ClientError):
    """The client's key for this proxy is missing or unknown."""

    status = 401
    type = "authentication_error"


class KeyExpired(BadClientKey):
    """The client's key has expired."""


class KeyForbids(ClientError):
    """The client's key does not permit this; Claude Code shows the message, and retries neither this nor
    another model."""

    type = "policy_blocked"


class KeySpent(ClientError):
    """The client's key has used up its weekly limit."""

    status = 429
    type = "billing_error"


class KeyBusy(ClientError):
    """The client's key has reached its concurrency limit."""

    status = 429
    type = "rate_limit_error"
    should_retry = True


class PromptTooLong(ClientError):
    """The prompt exceeds the window of every available model."""


class FieldUnsupported(ClientError):
    """No available provider keeps a field of the request on which the client relies."""


class ThreadLost(ClientError):
    """The thread can't be continued, while the whole conversation could be served.

    Clients send that at once: Claude Code by the token at the beginning of the message (and goes on without threads),
    Anthropic's SDKs by the code (and begin a new thread).
    """

    @classmethod
    def where(cls, reason: str) -> "ThreadLost":
        """The error, and why."""
        words = f"capability_rejected: beta_header:message-threads-2026-08-12; {reason}: send the whole conversation"
        return cls(words, details={"error_code": "thread_not_found"})


class NotLoggedIn(ClientError):
    """The admin API was called without a valid token or session."""

    status = 401
    type = "authentication_error"


class BadReport(ClientError):
    """A history request is invalid."""


class NotAllowed(ClientError):
    """The caller is read-only; or the change lacks its CSRF token."""

    status = 403
    type = "permission_error"


class NoHost(ClientError):
    """An HTTP/1.1 request without a Host header."""


class UnknownHost(ClientError):
    """The proxy does not serve the name in the Host header."""

    status = 403
    type = "permission_error"


class ForeignOrigin(ClientError):
    """A browser sent the request for a web page of another origin."""

    status = 403
    type = "permission_error"


class Taken(ClientError):
    """The object to create exists already."""

    status = 409
    type = "conflict_error"


class AskedTooOften(ClientError):
    """The admin API's rate limit is exceeded, or too many wrong secrets arrive at once."""

    status = 429
    type = "rate_limit_error"
    should_retry = True


class NotFound(ClientError):
    """There is nothing at that path."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(ClientError):
    """The path does not support the method; `allowed` lists those that it does."""

    status = 405

    def __init__(self, message: str, *, allowed: str = "") -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTooSlow(ClientError):
    """The head or body of a request took too long."""

    status = 408
    type = "timeout_error"
    should_retry = True


class BodyTooLarge(ClientError):
    """The request's body is over the limit."""

    status = 413
    type = "request_too_large"


class UrlTooLong(ClientError):
    """The request's URL is over the limit."""

    status = 414


class HeadTooLarge(ClientError):
    """The request's line and headers, or its trailers, are over the limit."""

    status = 431


class VersionNotSupported(ClientError):
    """The request speaks another version of HTTP."""

    status = 505


class Stopping(ProxyError):
    """This process has to stop before the response is complete."""

    status = 503
    should_retry = True


class BodyMemoryFull(ProxyError):
    """The bodies of all requests together have reached their memory limit."""

    status = 503
    should_retry = True


class ReportAway(ProxyError):
    """No worker answered a request for history."""

    status = 503


class NoRoute(ProxyError):
    """No route could take the request."""

    status = 503


class KeysUnknown(NoRoute):
    """The ledger's keys were not read yet, so that this key can't be verified."""

    should_retry = True


class HomeUnknown(NoRoute):
    """The index of resources is unavailable, so that the resource's route is unknown."""

    should_retry = True


class AllThrottled(NoRoute):
    """Every route waits for a throttle or a quota to end."""

    status = 429
    type = "rate_limit_error"


class Unreachable(NoRoute):
    """Every attempt failed before a response."""

    status = 502


class ProviderFailed(Unreachable):
    """A provider's error in the proxy's words. Status, type and headers are the provider's; so is what the client is
    told, where there are `fields`: the provider's object of an error."""

    fields: Mapping[str, Any] | None = None
