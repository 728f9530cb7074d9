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

An upstream's own error is no exception here: it is an outcome, and what the client sees of it is the plan's verdict.
"""


class ProxyError(Exception):
    """The root. `message` is shown to the client, so it holds no secret and names the mend where there is one.

    `details` becomes `error.details`, by whose `error_code` the SDKs pick a class of exception.
    """

    status = 500
    type = "api_error"
    should_retry: bool | None = None
    """`x-should-retry`: what a client is told about trying again; None says nothing."""

    def __init__(
        self, message: str, *, retry_after_s: int | None = None, details: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details


class SettingsError(ProxyError):
    """The settings can't be used. The message names the place and the mend."""


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
    """The client's key was good until some day."""


class KeyForbids(ClientError):
    """The client's key may not do that; Claude Code shows the message, and tries neither again nor another model."""

    type = "policy_blocked"


class KeySpent(ClientError):
    """The client's key has used what it may use this week."""

    status = 429
    type = "billing_error"


class KeyBusy(ClientError):
    """The client's key has as many requests under way as it may have."""

    status = 429
    type = "rate_limit_error"
    should_retry = True


class PromptTooLong(ClientError):
    """The prompt is larger than any model holds that a route could send it to."""


class NotLoggedIn(ClientError):
    """The admin API was asked without a token or session that is good."""

    status = 401
    type = "authentication_error"


class BadReport(ClientError):
    """History was asked for in a way that nobody understands."""


class NotAllowed(ClientError):
    """Who asked may look, and change nothing; or the change came without its CSRF token."""

    status = 403
    type = "permission_error"


class NoHost(ClientError):
    """An HTTP/1.1 request without a Host header."""


class UnknownHost(ClientError):
    """The Host header names something that the proxy does not answer to."""

    status = 403
    type = "permission_error"


class ForeignOrigin(ClientError):
    """A browser sent the request for a web page of another origin."""

    status = 403
    type = "permission_error"


class Taken(ClientError):
    """What should be made is there already."""

    status = 409
    type = "conflict_error"


class AskedTooOften(ClientError):
    """The admin API is asked more often than any page or script needs, or too many wrong secrets come at once."""

    status = 429
    type = "rate_limit_error"
    should_retry = True


class NotFound(ClientError):
    """Nothing here answers to that path."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(ClientError):
    """The path does not take the method, or nothing here does; `allowed` are those that may be used."""

    status = 405

    def __init__(self, message: str, *, allowed: str = "") -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTooSlow(ClientError):
    """The head or body of a request took too long to come."""

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
    """This process has to end before the answer does."""

    status = 503
    should_retry = True


class BodyMemoryFull(ProxyError):
    """The bodies of all requests together take as much memory as they may."""

    status = 503
    should_retry = True


class ReportAway(ProxyError):
    """History is asked of the workers, and none answered."""

    status = 503


class NoRoute(ProxyError):
    """No route could take the request."""

    status = 503


class KeysUnknown(NoRoute):
    """The keys on the ledger were not read yet, so that nobody can tell whether this is one of them."""

    should_retry = True


class HomeUnknown(NoRoute):
    """The index of resources is away, so that nobody can tell on which route the request has to be made."""

    should_retry = True


class AllThrottled(NoRoute):
    """Every route waits for a throttle or a quota to end."""

    status = 429
    type = "rate_limit_error"


class Unreachable(NoRoute):
    """Every attempt failed before an answer came."""

    status = 502
