"""Server-sent events from bytes as they come in, cut anywhere (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a last \r may be the first half of \r\n
_BOM = b"\xef\xbb\xbf"


class EventReader:
    """Gives the data of each event as soon as its last byte is there. Comments and all fields but `data` are
    passed over."""

    def __init__(self) -> None:
        self._rest = b""  # of a line that has not ended
        self._data: list[bytes] = []  # lines of the event that has not ended
        self._first = True

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that `piece` completes, in order."""
        self._rest += piece
        if self._first and len(self._rest) >= len(_BOM):
            self._rest, self._first = self._rest.removeprefix(_BOM), False
        *lines, self._rest = _LINE_END.split(self._rest)
        events: list[bytes] = []
        for line in lines:
            self._take(line, events)
        return events

    def close(self) -> list[bytes]:
        """The data of an event that the end of the stream cut short of its blank line, if there is one."""
        events = self.feed(b"\n\n") if self._rest or self._data else []
        return [event for event in events if event]

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data = []
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
