"""Caches that are sent layer by layer, while the last step of their prompt computes them.

    begin(batch) ─▶ the other side makes room ─▶ a layer is stored ─▶ a thread copies its blocks ─▶ … ─▶ end()

Source: Splitwise (arXiv:2311.18677), section 4.3. The request itself follows by a
`fleet.migration.Migration`, which then has nothing left to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from twofold.engine.batch import Batch
from twofold.engine.request import Request
from twofold.models.cache import CacheLayer
from twofold.models.step import Written

if TYPE_CHECKING:
    from twofold.fleet.instance import Instance


class Outlet(Protocol):
    """Where the blocks of one request go."""

    def put(self, layer: int) -> None:
        """Copy its blocks of layer number `layer`; called from another thread."""

    def close(self) -> None:
        """The step is over: what is put from now on was not sent beside it."""


Opening = Callable[[Request, int], Outlet | None]
"""Makes room for so many slots of a request's cache where it goes on; None where there is none."""


class LayerSender:
    """What one instance sends with its prompts (a `engine.sending.Sending`).

    caches: of its layers; real: whether there are tensors in them. bound: for requests that go on elsewhere,
    the length of a prompt from which on its cache goes along layer by layer, and what makes room for it.
    """

    def __init__(self, caches: Sequence[CacheLayer], *, real: bool) -> None:
        self.bound: dict[str | int, tuple[int, Opening]] = {}
        self._numbers = {id(cache): number for number, cache in enumerate(caches)}
        self._real = real
        self._outlets: list[Outlet] = []
        self._left: list[int] = []
        self._copies: list[Future[None]] = []
        self._thread: ThreadPoolExecutor | None = None

    def begin(self, batch: Batch) -> Written | None:
        """See `Sending.begin`: the requests whose prompt ends in `batch` are sent."""
        for entry in batch.entries:
            if not (entry.is_prefill and entry.samples):
                continue
            request = entry.request
            least, opening = self.bound.pop(request.id, (0, None))
            first = not request.num_output_tokens and request.num_context_tokens >= least
            if opening is not None and first:
                outlet = opening(request, entry.num_keys)
                if outlet is not None and self._real:
                    self._outlets.append(outlet)
        if not self._outlets:
            return None
        self._left = list(self._numbers.values())
        return self._stored

    def end(self) -> None:
        """See `Sending.end`."""
        for outlet in self._outlets:
            outlet.close()
        for number in self._left.copy():  # layers that took no part in the step
            self._send(number)
        while self._copies:
            self._copies.pop().result()
        self._outlets = []

    def _stored(self, cache: CacheLayer) -> None:
        self._send(self._numbers[id(cache)])

    def _send(self, number: int) -> None:
        self._left.remove(number)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sender")
        self._copies.append(self._thread.submit(self._put, number))

    def _put(self, number: int) -> None:
        for outlet in self._outlets:
            outlet.put(number)


class Shipment:
    """A cache that goes with its prompt from one instance to another in the same process: an Outlet.

    target: the instance that has it; slots: how many of it go, of the life of the request that `preemptions`
    counts. pairs: (block here, block there); nbytes: of all of them.
    """

    def __init__(
        self,
        target: Instance,
        request: Request,
        slots: int,
        pairs: list[tuple[int, int]],
        mine: Sequence[CacheLayer],
        theirs: Sequence[CacheLayer],
    ) -> None:
        self.target, self.slots, self.preemptions = target, slots, request.num_preemptions
        self.nbytes = len(pairs) * sum(cache.block_bytes() for cache in mine)
        self._pairs, self._mine, self._theirs = pairs, mine, theirs
        self._beside = True
        self._bytes = 0

    def put(self, layer: int) -> None:
        """Copy the blocks of one layer."""
        mine = self._mine[layer]
        mine.copy_blocks(self._pairs, self._theirs[layer].blocks, out=True)
        if self._beside:
            self._bytes += len(self._pairs) * mine.block_bytes()

    def close(self) -> None:
        """The step is over."""
        self._beside = False

    def arrived(self) -> int:
        """Wait until all of it is there; the bytes that were when the step was over."""
        return self._bytes
