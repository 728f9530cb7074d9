"""The list of models: those of all routes that the client may use, joined.

All routes are asked at the same time, within less than the 3 seconds that Claude Code waits. One that is slow or fails
is left out, as the log says; one that offers no list, or can't be asked now, is represented by the known models.

- One account of Anthropic alone, without a limit of models, answers as it is.
- If there is no list at all, the first route's error is the answer.

Not here: the shape of a list (`protocol.model_list`), asking a route (`attempt_runner`).
"""

import asyncio
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

import msgspec
from msgspec.structs import replace

from service.errors import NotFound
from service.fleet.clock import Clock
from service.protocol.model_list import LARGEST_PAGE, Entry, entries_in, joined, known_entry, page_of
from service.relay.attempt import AttemptOutcome, AttemptPlan
from service.relay.attempt_runner import AttemptRunner
from service.relay.client import READS, ClientRequest, ClientResponse, content_length
from service.relay.recorder import AttemptRecorder
from service.relay.request_plan import RequestPlan
from service.routing.failover import Attempt, Verdict
from service.routing.keys import matches
from service.routing.models import is_native
from service.routing.rank import Candidate
from service.settings import Provider, Settings

LIMIT_S = 2.5
SHOWN_CHARS = 128
LIST, ITEMS = "/v1/models", "/v1/models/"
JSON_HEADER = (b"content-type", b"application/json")
RESTING = frozenset(("circuit_open", "refused", "waiting", "quota_spent"))
"""Why a route is skipped that will serve again."""
UNLISTED = frozenset((403, 404, 405, 501))
"""Statuses of a provider that offers no list."""


class CollectedResponse:
    """What a route answers, kept."""

    def __init__(self) -> None:
        self.early = False
        self.committed = False
        self.body = b""

    async def start(self, _status: int, _headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that the answer begins."""
        self.committed = True

    async def write(self, data: bytes) -> None:
        """Keep a part of the body."""
        self.body += data

    async def end(self, data: bytes = b"") -> None:
        """Keep the last part of the body."""
        self.body += data


class ModelList:
    """Answers requests for models."""

    def __init__(self, settings: Settings, *, runner: AttemptRunner, recorder: AttemptRecorder, clock: Clock) -> None:
        self._known = sorted(settings.prices.models)
        self._runner = runner
        self._recorder = recorder
        self._clock = clock

    async def answer(self, request: ClientRequest, plan: RequestPlan, response: ClientResponse) -> bool:
        """Answer from the joined list; False if the plan has to be followed. Raises ProxyError."""
        if not is_about_models(request):
            return False
        name = named_model(request)
        if not needs_joining(request, plan.candidates):
            return False
        entries = await self._entries(request, plan, response)
        if entries is None:
            return False
        body = (
            next((entry for entry in entries if entry["id"] == name), None) if name else page_of(entries, request.query)
        )
        if body:
            await send(response, body)
        return bool(body)

    async def _entries(self, request: ClientRequest, plan: RequestPlan, response: ClientResponse) -> list[Entry] | None:
        """The models of all routes that the client may use; None, and a verdict, if there is no list at all."""
        lists, outcomes = await self._lists(request, plan.candidates)
        response.attempts = len(outcomes)
        if not lists and outcomes and outcomes[0].failure:
            show_first(plan, outcomes)
            return None
        return [entry for entry in joined(lists) if may_use(request, entry["id"])]

    async def _lists(
        self, request: ClientRequest, candidates: Iterable[Candidate]
    ) -> tuple[list[list[Entry]], list[AttemptOutcome]]:
        """The lists of the routes in their order, and what came of asking."""
        deadline_s = asyncio.get_running_loop().time() + LIMIT_S
        asked = [candidate for candidate in candidates if candidate.usable or candidate.skip_reason in RESTING]
        answers = await asyncio.gather(
            *(self._ask(request, candidate, number, deadline_s) for number, candidate in enumerate(asked, 1))
        )
        lists = [entries for entries, _ in answers if entries]
        return lists, [outcome for _, outcome in answers if outcome]

    async def _ask(
        self, request: ClientRequest, candidate: Candidate, number: int, deadline_s: float
    ) -> tuple[list[Entry], AttemptOutcome | None]:
        """The models of a route; none if it is left out."""
        if not candidate.usable:
            return self._known_of(candidate.route.provider), None
        plan = AttemptPlan(
            attempt=Attempt(candidate, number),
            route=candidate.route,
            model="",
            attempt_id=self._clock.new_id(),
            started_ms=self._clock.now_ms(),
        )
        asked = replace(request, method="GET", path=LIST, query=f"limit={LARGEST_PAGE}")
        response = CollectedResponse()
        outcome = await self._runner.run_attempt(asked, plan, response, deadline_s, is_last=True)
        try:
            outcome = await self._recorder.record_end(asked, outcome, final=True)
        finally:
            self._runner.release(outcome)
        request.last = asked.last or request.last
        if outcome.failure and not is_unlisted(outcome):
            return [], outcome
        entries = entries_in(response.body) if not outcome.failure else None
        return self._known_of(candidate.route.provider) if entries is None else entries, outcome

    def _known_of(self, provider: Provider) -> list[Entry]:
        """The models that a provider is known to serve: by prices, and by its own map."""
        named = [*provider.model_map.values(), *provider.model_fallback.values()]
        known = [*self._known, *(name for name in named if name not in self._known)]
        return [known_entry(name) for name in known if is_native(provider, name)]


def is_about_models(request: ClientRequest) -> bool:
    """True if a request reads the list or one of its models."""
    return request.endpoint == "models" and request.method in READS and request.path.count("/") <= ITEMS.count("/")


def named_model(request: ClientRequest) -> str:
    """Return the model that a path names, "" for the list. Raises NotFound for one that the client may not use."""
    name = unquote(request.path.removeprefix(ITEMS)) if request.path != LIST else ""
    if name and not may_use(request, name):
        raise NotFound(f"model: {name[:SHOWN_CHARS]}")
    return name


def is_unlisted(outcome: AttemptOutcome) -> bool:
    """True if a provider offers no list, or something else in its place."""
    is_other = outcome.failure is not None and outcome.failure.kind == "bad_answer"
    return is_other or outcome.status in UNLISTED


def may_use(request: ClientRequest, model: str) -> bool:
    """True if the client's key may use a model."""
    return not request.only_models or matches(request.only_models, model)


def needs_joining(request: ClientRequest, candidates: Sequence[Candidate]) -> bool:
    """True unless the answer of a single route is the whole answer."""
    left = [candidate for candidate in candidates if candidate.usable or candidate.skip_reason in RESTING]
    is_single = len(left) == 1 and left[0].route.provider.dialect == "anthropic"
    return bool(left) and not (is_single and not request.only_models)


def show_first(plan: RequestPlan, outcomes: list[AttemptOutcome]) -> None:
    """End a plan with the error of its first attempt."""
    plan.outcomes = outcomes
    plan.attempt = None
    has_answer = outcomes[0].status > 0
    plan.verdict = Verdict("relayed", 1, failure=outcomes[0].failure) if has_answer else Verdict("unreachable")


async def send(response: ClientResponse, body: object) -> None:
    """Send a whole answer of our own."""
    data = msgspec.json.encode(body)
    await response.start(200, [JSON_HEADER, content_length(data)])
    await response.end(data)
