"""A response as it grows: pieces of an answer go in, the events of a stream come out, in OpenAI's order.

    response.created, response.in_progress
      output_item.added, content_part.added, output_text.delta …, output_text.done, content_part.done,
      output_item.done                                                             (a message)
      output_item.added, function_call_arguments.delta …, function_call_arguments.done, output_item.done
                                                                                   (a call)
    response.completed | response.incomplete | response.failed

An answer that is not streamed is made the same way; its events are dropped.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

Event = dict[str, Any]


class Growing:
    """See the module. response: the object's fields as `ResponseObject` has them, with nothing put out yet;
    logprobs: whether texts carry them."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self._output: list[dict[str, Any]] = response["output"]
        self._item: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._sequence = 0

    def begin(self) -> list[Event]:
        """Nothing is there yet."""
        empty = {**self.response, "output": []}
        return [
            self._event("response.created", response=empty),
            self._event("response.in_progress", response=empty),
        ]

    def text(self, delta: str, logprobs: Sequence[dict[str, Any]] = ()) -> list[Event]:
        """More of the message, which begins where there was none before."""
        events: list[Event] = []
        if self._item is None or self._item["type"] != "message":
            events += self._close() + self._open({"type": "message", "role": "assistant", "content": []})
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append(self._event("response.content_part.added", **self._part_at(), part=part))
        if delta or logprobs:
            self._pieces.append(delta)
            self._logprobs += logprobs
            events.append(
                self._event(
                    "response.output_text.delta", **self._part_at(), delta=delta, logprobs=list(logprobs)
                )
            )
        return events

    def call(self, call_id: str, name: str) -> list[Event]:
        """A call begins."""
        call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        return self._close() + self._open(call)

    def arguments(self, delta: str) -> list[Event]:
        """More of the call's arguments."""
        assert self._item is not None, "no call has begun"
        assert self._item["type"] == "function_call", self._item["type"]
        if not delta:
            return []
        self._pieces.append(delta)
        return [self._event("response.function_call_arguments.delta", **self._at(), delta=delta)]

    def end(self, usage: dict[str, Any], *, cut_short: bool) -> list[Event]:
        """All is there; cut_short: by the limit of tokens."""
        status = "incomplete" if cut_short else "completed"
        events = [] if self._item or self._output else self.text("")
        events += self._close(status)
        details = {"reason": "max_output_tokens"} if cut_short else None
        self.response.update(
            status=status, usage=usage, incomplete_details=details, completed_at=int(time.time())
        )
        return [*events, self._event(f"response.{status}", response=self.response)]

    def fail(self, message: str) -> list[Event]:
        """It goes no further."""
        if self._item is not None:
            self._close("incomplete")
        error = {"code": "server_error", "message": message}
        self.response.update(status="failed", error=error)
        return [self._event("response.failed", response=self.response)]

    # --- inside ---

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _at(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self._output)}

    def _part_at(self) -> dict[str, Any]:
        return {**self._at(), "content_index": 0}

    def _open(self, item: dict[str, Any]) -> list[Event]:
        prefix = "msg" if item["type"] == "message" else "fc"
        self._item = {"id": f"{prefix}_{uuid.uuid4().hex}", "status": "in_progress", **item}
        self._pieces, self._logprobs = [], []
        at = len(self._output)
        return [self._event("response.output_item.added", output_index=at, item=dict(self._item))]

    def _close(self, status: str = "completed") -> list[Event]:
        """The item that is open, if one is, is done."""
        if self._item is None:
            return []
        item, whole = self._item, "".join(self._pieces)
        if item["type"] == "message":
            part = {"type": "output_text", "text": whole, "annotations": [], "logprobs": self._logprobs}
            item["content"] = [part]
            events = [
                self._event(
                    "response.output_text.done", **self._part_at(), text=whole, logprobs=self._logprobs
                ),
                self._event("response.content_part.done", **self._part_at(), part=part),
            ]
        else:
            item["arguments"] = whole
            events = [
                self._event(
                    "response.function_call_arguments.done",
                    **self._at(),
                    arguments=whole,
                )
            ]
        item["status"] = status
        events.append(self._event("response.output_item.done", output_index=len(self._output), item=item))
        self._output.append(item)
        self._item = None
        return events
