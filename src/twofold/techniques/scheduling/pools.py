"""Splitwise's cluster scheduler: a pool of machines for prompts, one for tokens, a mixed one between them.

Every request gets two machines when it arrives: the one of the prompt pool with the shortest queue (in
tokens) computes its prompt, and the one of the token pool with the most free memory generates. When a pool is
loaded, a machine of the other one joins the mixed pool and does both; it returns once nothing of the other
kind is left on it. Source: section IV-A of the paper, and its authors' simulator for what is queued and what
is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twofold.fleet.load import Load
from twofold.fleet.policy import Arrival, Member, Move, Onward, Stages


class Pools:
    """A FleetPolicy. Instances 0 … prompt - 1 begin in the prompt pool, the others in the token pool.

    longest_queue: prompt tokens that may wait at a prompt machine before others help; layerwise_from: tokens
    of the shortest prompt whose cache is sent layer by layer. counters: prompts that were dispatched, caches
    that went over, and machines that joined the mixed pool.
    """

    name = "splitwise"
    stages: Stages | None = None

    def __init__(
        self, prompt: int, token: int, longest_queue: int, layerwise_from: int, token_device: str | None
    ) -> None:
        self.devices: Sequence[str | None] = [None] * prompt + [token_device] * token
        self.layerwise_from = layerwise_from
        self.longest_queue = longest_queue
        self.prompt_pool = list(range(prompt))
        self.token_pool = list(range(prompt, prompt + token))
        self.mixed_pool: list[int] = []
        self._at_home = set(self.prompt_pool)
        self._assigned: dict[str | int, tuple[int, int, int]] = {}
        self._coming: dict[int, int] = {}
        self.counters = {"prompts": 0, "transfers": 0, "joined_mixed_pool": 0}

    def dispatch(self, request: Arrival, members: Sequence[Member]) -> int:
        """The machine of the prompt; the machine of the tokens is chosen at the same time."""
        loads = [member.load for member in members]
        self._return_home(loads)
        blocks = -(-request.prompt_tokens // loads[0].block_size)

        def queue(number: int) -> float:
            return loads[number].pending_tokens

        def memory(number: int) -> float:
            return self._coming.get(number, 0) - loads[number].free_blocks

        def short(number: int) -> bool:
            waits = loads[number].num_waiting > 0
            return not waits or queue(number) + request.prompt_tokens <= self.longest_queue

        def roomy(number: int) -> bool:
            return memory(number) + blocks < 0

        prompt = self._find(self.prompt_pool, queue, short)
        token = self._find(self.token_pool, memory, roomy)
        if prompt is None and self.token_pool:
            prompt = self._join(self.token_pool, queue)
        if token is None and self.prompt_pool:
            token = self._join(self.prompt_pool, memory)
        if prompt is None or token is None:  # everybody is loaded: as without pools
            prompt = token = min(range(len(loads)), key=queue)
        self._assigned[request.id] = prompt, token, blocks
        if token != prompt:
            self._coming[token] = self._coming.get(token, 0) + blocks
        self.counters["prompts"] += 1
        return prompt

    def goes_on(self, id: str | int) -> Onward | None:
        """The machine of its tokens, where another one computes the prompt."""
        prompt, token, _ = self._assigned[id]
        return Onward(token, self.layerwise_from) if prompt != token else None

    def _find(
        self, pool: Iterable[int], load: Callable[[int], float], fits: Callable[[int], bool]
    ) -> int | None:
        """The least loaded machine of `pool`, else of the mixed one, that is not loaded."""
        for numbers in (list(pool), self.mixed_pool):
            best = min(numbers, key=load, default=None)
            if best is not None and fits(best):
                return best
        return None

    def _join(self, pool: list[int], load: Callable[[int], float]) -> int:
        """The least loaded machine of `pool`, which becomes a mixed one."""
        number = min(pool, key=load)
        pool.remove(number)
        self.mixed_pool.append(number)
        self.counters["joined_mixed_pool"] += 1
        return number

    def _return_home(self, loads: Sequence[Load]) -> None:
        """Mixed machines go back to their pool once they do nothing of the other kind."""
        for number in list(self.mixed_pool):
            load = loads[number]
            of_prompts = number in self._at_home
            others = (
                len(load.decoding) + self._coming.get(number, 0)
                if of_prompts
                else load.pending_tokens - len(load.decoding)
            )
            if not others:
                self.mixed_pool.remove(number)
                (self.prompt_pool if of_prompts else self.token_pool).append(number)

    def moves(self, members: Sequence[Member], now: float) -> list[Move]:
        """Requests whose prompt is computed and whose tokens are another machine's to generate."""
        del now
        found = []
        for number in {prompt for prompt, token, _ in self._assigned.values() if prompt != token}:
            for resident in members[number].decoding:
                prompt, token, _ = self._assigned[resident.id]
                if prompt == number != token:
                    found.append(Move(resident.id, prompt, token))
        return found

    def moved(self, move: Move, arrived: bool) -> None:
        """The cache is where its tokens are generated; or it will be tried again after the next step."""
        if arrived:
            self.counters["transfers"] += 1
            self._arrive(move.id)

    def ended(self, id: str | int) -> None:
        """Forget the request."""
        if id in self._assigned:
            self._arrive(id)
            del self._assigned[id]

    def _arrive(self, id: str | int) -> None:
        """The machine of its tokens expects request `id` no longer."""
        prompt, token, blocks = self._assigned[id]
        if prompt != token:
            self._coming[token] -= blocks
            self._assigned[id] = token, token, blocks
