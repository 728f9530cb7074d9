"""The request as it goes to one route: its credential, headers and body.

Not here: what differs between providers (`providers`), how a token is refreshed (`oauth`), or sending (`http1`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from service.oauth.credentials import Credentials, NoCredential
from service.protocol.body_survey import LARGE_BYTES, BlockSurvey, MessageSurvey, blocks_of, survey
from service.protocol.raw_json import THINKING_BLOCKS
from service.providers.bodies import Cure, clean_body
from service.providers.headers import length_said, upstream_headers
from service.providers.signatures import RefusedSignatures
from service.relay.attempt import AttemptFailed, AttemptPlan
from service.relay.client import ClientRequest, track_upload
from service.relay.session_affinity import loses_cache
from service.routing.failure import Failure, is_binding_mismatch
from service.settings import Route, Settings


class UpstreamRequest(Struct, frozen=True):
    """A request for one route. `credential` is the route's, "" when the client's own is passed on; `account` says whose
    it is. `loses_thoughts`: its session moved here, and thinking blocks were left out."""

    credential: str
    account: str
    headers: Sequence[tuple[bytes, bytes]]
    content: bytes | AsyncIterator[bytes]
    loses_thoughts: bool = False


class UpstreamRequestBuilder:
    """Builds requests for routes. Remembers which signatures of thinking blocks providers have refused."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials
        self._refused_signatures = RefusedSignatures()

    async def build(self, request: ClientRequest, plan: AttemptPlan) -> UpstreamRequest:
        """The request as this route gets it. Raises AttemptFailed when there is none."""
        route = plan.route
        credential = "" if route.auth == "client" else await self._credential(route)
        account = self._credentials.accounts.get(route.id, "")
        content = await self._content(request, plan)
        headers = upstream_headers(
            request.headers,
            dialect=route.provider.dialect,
            auth=route.auth,
            credential=credential,
            stream=request.stream,
            body_decoded=not (request.upload or content is request.body),
            pass_accept_encoding=request.endpoint in ("files", "other"),
            withhold=request.withhold,
        )
        if request.upload:
            headers += length_said(request.headers)
        last = request.last_served
        moves = last is not None and loses_cache(last, route.id, account, plan.model)
        loses_thoughts = moves and await self._lacks_thoughts(content, request)
        return UpstreamRequest(credential, account, headers, content, loses_thoughts)

    async def note_refused_signatures(self, request: ClientRequest, plan: AttemptPlan, failure: Failure) -> None:
        """Remember the signature that a route could not check, to leave it out from now on: that of the block which the
        error names, or all if they may belong to another account."""
        if len(request.plain) <= LARGE_BYTES:
            self._note_refused(request, plan, failure)
        else:
            await asyncio.to_thread(self._note_refused, request, plan, failure)

    def _note_refused(self, request: ClientRequest, plan: AttemptPlan, failure: Failure) -> None:
        named = "" if is_binding_mismatch(failure) else failure.message
        self._refused_signatures.add(plan.route.id, self._cleaned(request, plan), named)

    async def _lacks_thoughts(self, content: bytes | AsyncIterator[bytes], request: ClientRequest) -> bool:
        if content is request.body or not isinstance(content, bytes):
            return False
        if len(content) <= LARGE_BYTES:
            return lacks_thoughts(content, request)
        return await asyncio.to_thread(lacks_thoughts, content, request)

    async def _credential(self, route: Route) -> str:
        try:
            return await self._credentials.of(route)
        except NoCredential as error:
            raise AttemptFailed(Failure("credential", "credential", message=str(error))) from None

    async def _content(self, request: ClientRequest, plan: AttemptPlan) -> bytes | AsyncIterator[bytes]:
        """The body for this route: `request.body` itself when nothing has to change."""
        if request.upload:
            if request.upload_taken:
                raise AttemptFailed(Failure("reset", "", message="an upload can't be sent twice"))
            return track_upload(request, request.upload)
        if request.endpoint not in ("messages", "count_tokens"):
            return request.body
        if len(request.plain) <= LARGE_BYTES:
            cleaned = self._cleaned(request, plan)
        else:
            cleaned = await asyncio.to_thread(self._cleaned, request, plan)
        is_unchanged = cleaned is request.plain and plan.route.provider.dialect == "anthropic"
        return request.body if is_unchanged else cleaned

    def _cleaned(self, request: ClientRequest, plan: AttemptPlan) -> bytes:
        """The body as the route's provider accepts it."""
        candidate = plan.attempt.candidate
        return clean_body(
            request.plain,
            route=plan.route,
            model_asked=request.model,
            model_sent=plan.model,
            strip_thinking=self._settings.strip_thinking,
            policy=self._settings.policy,
            refused=self._refused_signatures.of(plan.route.id),
            messages=request.messages,
            cure=Cure(candidate.without_thinking, candidate.thinking_off),
        )


def lacks_thoughts(content: bytes, request: ClientRequest) -> bool:
    """True if thinking blocks of the request are missing from the body that a route gets."""
    messages = survey(request.plain) if request.messages is None else request.messages
    return thoughts_in(survey(content)) < thoughts_in(messages)


def thoughts_in(messages: Sequence[MessageSurvey[BlockSurvey]]) -> int:
    """The number of thinking blocks."""
    return sum(block.type in THINKING_BLOCKS for block in blocks_of(messages))
