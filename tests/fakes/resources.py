"""What lives on the provider that made it: batches, files, threads, containers, sessions; the list of models."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from tests.fakes import reply

if TYPE_CHECKING:
    from tests.fakes.language import Received, Reply

THREAD, DREAM = "sthr_", "drm_"
MakeMessage = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Resources:
    """The resources of one fake, gone when it goes. `root_url` makes the absolute `results_url`."""

    models: tuple[str, ...]
    root_url: str = ""
    make_message: MakeMessage = field(default=lambda params: params)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_requests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    message_ids: set[str] = field(default_factory=set)
    sessions: dict[str, int] = field(default_factory=dict)
    """Tokens that agents' sessions have used so far, by id. A dream (`DREAM` before the session's id) has used a third
    of them, and a thread (`THREAD`) the rest."""

    def answer(self, request: Received, path: str) -> Reply | None:
        """The answer, None for a path that is no resource."""
        first, *rest = path.removeprefix("/v1/").split("/")
        if first == "models":
            return self._models(request, rest)
        if first == "files":
            return self._files(request, rest)
        if first == "sessions":
            return self._sessions(rest)
        if first == "dreams":
            return self._dream(rest)
        if first == "messages" and rest[:1] == ["batches"]:
            return self._batches(request, rest[1:])
        return None

    def thread_refusal(self, body: dict[str, Any]) -> Reply | None:
        """A thread can be continued only where its last message was made."""
        thread = body.get("thread")
        if not isinstance(thread, dict) or thread.get("type") != "continue":
            return None
        if thread.get("previous_message_id") in self.message_ids:
            return None
        text = "No usable Thread state was found for `previous_message_id`."
        return reply.error(404, message=text, details={"error_code": "thread_not_found"})

    # -- models

    def _models(self, request: Received, rest: list[str]) -> Reply:
        if request.method not in ("GET", "HEAD"):
            return not_found(request.path)
        models = [_model(name) for name in self.models]
        if not rest:
            return reply.json(_page(models, request))
        found = [model for model in models if model["id"] == rest[0]]
        return reply.json(found[0]) if found else reply.model_not_found(rest[0])

    # -- files

    def _files(self, request: Received, rest: list[str]) -> Reply:
        if not rest:
            return self._upload(request) if request.method == "POST" else self._file_list()
        if rest[0] not in self.files:
            return reply.error(404, message=f"File not found: {rest[0]}")
        metadata, content = self.files[rest[0]]
        if rest[1:] == ["content"]:
            return reply.raw(content, content_type=metadata["mime_type"])
        if request.method == "DELETE":
            del self.files[rest[0]]
            return reply.json({"id": rest[0], "type": "file_deleted"})
        return reply.json(metadata)

    def _file_list(self) -> Reply:
        return reply.json({"data": [metadata for metadata, _ in self.files.values()], "next_page": None})

    def _upload(self, request: Received) -> Reply:
        part = _file_part(request)
        if part is None:
            return reply.bad_request("file: Field required")
        name, mime_type, content = part
        file_id = "file_01" + secrets.token_hex(11)
        metadata = {
            "id": file_id,
            "type": "file",
            "filename": name,
            "mime_type": mime_type,
            "size_bytes": len(content),
            "created_at": _stamp(),
            "downloadable": True,
        }
        self.files[file_id] = (metadata, content)
        return reply.json(metadata)

    # -- sessions

    def _sessions(self, rest: list[str]) -> Reply:
        if not rest:
            return reply.json({"data": [self._session(name) for name in self.sessions], "next_page": None})
        if rest[0] not in self.sessions:
            return reply.error(404, message=f"Session not found: {rest[0]}")
        if rest[1:2] == ["threads"]:
            used = self.sessions[rest[0]] - self.sessions[rest[0]] // 3
            return reply.json(self._part("session_thread", THREAD, rest[0], used))
        return reply.json(self._session(rest[0]))

    def _dream(self, rest: list[str]) -> Reply:
        session = rest[0].removeprefix(DREAM) if rest else ""
        if session not in self.sessions:
            return reply.error(404, message="Dream not found")
        return reply.json(self._part("dream", DREAM, session, self.sessions[session] // 3))

    def _part(self, kind: str, prefix: str, session: str, tokens: int) -> dict[str, Any]:
        model = {"id": self.models[0], "speed": "standard"}
        part = {"type": kind, "id": prefix + session, "session_id": session, "usage": usage_of(tokens)}
        return part | ({"model": model} if kind == "dream" else {"agent": {"type": "agent", "model": model}})

    def _session(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "type": "session",
            "status": "running",
            "agent": {"type": "agent", "model": {"id": self.models[0], "speed": "standard"}},
            "created_at": _stamp(),
            "usage": usage_of(self.sessions[name]),
        }

    # -- batches

    def _batches(self, request: Received, rest: list[str]) -> Reply:
        if not rest:
            return self._create_batch(request) if request.method == "POST" else self._batch_list(request)
        batch = self.batches.get(rest[0])
        if batch is None:
            return reply.error(404, message=f"Message batch not found: {rest[0]}")
        if rest[1:] == ["results"]:
            return self._batch_results(rest[0])
        if rest[1:] == ["cancel"]:
            batch |= {"processing_status": "canceling", "cancel_initiated_at": _stamp()}
            return reply.json(batch)
        if request.method == "DELETE":
            del self.batches[rest[0]]
            return reply.json({"id": rest[0], "type": "message_batch_deleted"})
        self._end_batch(batch)
        return reply.json(batch)

    def _batch_list(self, request: Received) -> Reply:
        return reply.json(_page(list(self.batches.values()), request))

    def _create_batch(self, request: Received) -> Reply:
        asked = request.json.get("requests")
        if not isinstance(asked, list) or not asked:
            return reply.bad_request("requests: Field required")
        batch_id = "msgbatch_01" + secrets.token_hex(11)
        counts = {"processing": len(asked), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        batch = {
            "id": batch_id,
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": counts,
            "created_at": _stamp(),
            "expires_at": _stamp(hours=24),
            "ended_at": None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": None,
        }
        self.batches[batch_id], self.batch_requests[batch_id] = batch, asked
        return reply.json(dict(batch))

    def _end_batch(self, batch: dict[str, Any]) -> None:
        """A batch is at work when created and at its end when first looked at: tests don't wait."""
        if batch["processing_status"] == "ended":
            return
        done = "canceled" if batch["processing_status"] == "canceling" else "succeeded"
        counts = batch["request_counts"]
        batch["request_counts"] = counts | {"processing": 0, done: counts["processing"]}
        batch["processing_status"] = "ended"
        batch["ended_at"] = _stamp()
        batch["results_url"] = f"{self.root_url}/v1/messages/batches/{batch['id']}/results"

    def _batch_results(self, batch_id: str) -> Reply:
        canceled = self.batches[batch_id]["request_counts"]["canceled"]
        lines = []
        for asked in self.batch_requests[batch_id]:
            message = {} if canceled else {"message": self.make_message(asked.get("params", {}))}
            result = {"type": "canceled" if canceled else "succeeded", **message}
            lines.append(msgspec.json.encode({"custom_id": asked.get("custom_id"), "result": result}))
        return reply.raw(b"\n".join(lines) + b"\n", content_type="application/x-jsonl")


def usage_of(tokens: int) -> dict[str, int]:
    """A running total."""
    return {"input_tokens": tokens, "output_tokens": tokens // 10, "cache_read_input_tokens": 2 * tokens}


def container(body: dict[str, Any]) -> dict[str, str] | None:
    """The container of an answer: the one asked for, or a new one; None when none was asked for."""
    if "container" not in body:
        return None
    asked = body["container"]
    known = asked if isinstance(asked, str) else (asked or {}).get("id")
    return {"id": known or "container_01" + secrets.token_hex(11), "expires_at": _stamp(hours=1)}


def not_found(path: str) -> Reply:
    return reply.error(404, message=f"Not found: {path}")


def _stamp(hours: int = 0) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "type": "model",
        "display_name": name.replace("-", " ").title(),
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "line": next((line for line in ("opus", "sonnet", "haiku") if line in name), None),
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
        "capabilities": None,
        "deprecated_at": None,
        "retires_at": None,
    }


def _page(items: Sequence[dict[str, Any]], request: Received) -> dict[str, Any]:
    """One page by `limit` and `after_id`."""
    asked = {name: values[0] for name, values in parse_qs(request.query).items()}
    ids = [item["id"] for item in items]
    start = ids.index(asked["after_id"]) + 1 if asked.get("after_id") in ids else 0
    limit = int(asked.get("limit", "20"))
    page = items[start : start + limit]
    return {
        "data": list(page),
        "has_more": start + limit < len(items),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _file_part(request: Received) -> tuple[str, str, bytes] | None:
    """Name, type and bytes of the first file in a multipart body."""
    content_type = request.header("content-type") or ""
    parsed = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + request.body)
    for part in parsed.iter_parts() if parsed.is_multipart() else []:
        if (name := part.get_filename()) is not None:
            content = part.get_payload(decode=True)
            return name, part.get_content_type(), content if isinstance(content, bytes) else b""
    return None
