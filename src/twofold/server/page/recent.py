"""The answers given most recently, by what was asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any


class Recent:
    """At most `size` answers. One that was refused is not kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to `question`, by `await ask()` where it is not known."""
        if question not in self._answers:
            answer = await ask()
            self._answers[question] = answer
            while len(self._answers) > self.size:
                self._answers.popitem(last=False)
        self._answers.move_to_end(question)
        return self._answers[question]
