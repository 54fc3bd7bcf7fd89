"""The engine: requests in, tokens out. What users call; the steps themselves are in `loop`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from twofold.engine.accounts import Accounts
from twofold.engine.active import Active
from twofold.engine.arrivals import Arrivals, Prompt
from twofold.engine.coasting import CoastingLoop
from twofold.engine.grammar import Grammars, Matcher
from twofold.engine.host import Host
from twofold.engine.integrity import check
from twofold.engine.memory import MemoryPlan
from twofold.engine.output import Completion, OutputBuilder
from twofold.engine.request import Request, SamplingParams
from twofold.engine.runner import Runner
from twofold.engine.scheduler import Scheduler
from twofold.engine.totals import EngineTotals, StepRecord
from twofold.models.tensors import Tokenizer
from twofold.techniques.base import Technique

__all__ = ["Engine", "EngineTotals", "Prompt", "StepRecord"]


class Engine(CoastingLoop):
    """Runs requests.

    actives: the techniques that are on; memory: what was planned; derived: the defaults that were decided.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        actives: Sequence[Active] = (),
        tokenizer: Tokenizer | None = None,
        memory: MemoryPlan,
        derived: dict[str, object],
        host: Host | None = None,
        record_steps: bool = False,
    ) -> None:
        super().__init__(scheduler, runner, actives, host=host, record_steps=record_steps)
        self.tokenizer = tokenizer
        self.memory = memory
        self.derived = derived
        self._next_id = 0
        self._grammars: Grammars | None = None

    @property
    def engines(self) -> list[Engine]:
        """Itself: what a fleet has several of."""
        return [self]

    def accounts(self) -> list[Accounts]:
        """What it has to say of itself."""
        return [Accounts.of(self)]

    @property
    def techniques(self) -> list[Technique]:
        """The techniques that are on, with what they have learned."""
        return [active.technique for active in self.actives]

    # --- requests ---

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        id: str | int | None = None,
        priority: int = 0,
        arrival_time: float | None = None,
        record_times: bool = False,
        pool: bool = False,
    ) -> Request:
        """Queue a request. ValueError where the prompt is empty, too long, or text without a tokenizer, or
        the parameters do not suit the model.

        pool: generate nothing; once it has ended, `output(id).vector` is the mean of the model's last hidden
        states, after the final norm, over all tokens of the prompt. These are computed every time, none is
        taken from the prefix cache, and no technique drops any of them beforehand.
        """
        if id is None:
            id, self._next_id = f"request-{self._next_id}", self._next_id + 1
        ids = self.encode(prompt)
        if isinstance(ids, int) and self.device.real:
            raise ValueError("a number of tokens can be predicted, not run: give text or token ids")
        if pool and params is not None:
            raise ValueError("no token is chosen for an embedding: give it no sampling parameters")
        if pool and not self.device.real:
            raise ValueError("an embedding is computed, not predicted: use a real device")
        eos = self.tokenizer.eos_ids if self.tokenizer is not None else frozenset()
        request = Request(
            id,
            ids,
            params,
            priority=priority,
            arrival_time=self.clock.now() if arrival_time is None else arrival_time,
            eos_ids=eos,
            share_prefix=self.scheduler.blocks.prefix_caching and not isinstance(ids, int) and not pool,
            record_times=record_times,
            matcher=None if params is None else self._matcher(params),
            pool=pool,
        )
        self._check_vocabulary(ids)
        kept = length = request.num_prompt_tokens
        if self._filter is not None and not pool:
            kept = self._filter.kept(length)
        self.scheduler.check_fits(id, kept, 0 if pool else 1)
        output = OutputBuilder(request, self.tokenizer)
        if kept < length:
            self._unfiltered.append(request)
        else:
            self.scheduler.add(request)
        self._outputs[id] = output
        return request

    def cancel(self, id: str | int) -> bool:
        """End a request and free its cache. False where it is unknown or has ended."""
        for request in self._unfiltered:
            if request.id == id:
                self._unfiltered.remove(request)
                self._skip_filter(request)
                break
        return self._finish(id, "cancelled")

    def abort(self) -> list[Request]:
        """End everything at once, after a step has failed: what was in flight is void. Returns what this
        ended."""
        self._flights.clear()
        while self._unfiltered:
            self._skip_filter(self._unfiltered.popleft())
        for request in self.scheduler.abort(self.clock.now()):
            self._retire(request)
        return self.take_ended()

    def detach(self, request: Request) -> tuple[list[int], OutputBuilder]:
        """Let a running request that is not in flight go to another engine. Returns its blocks, which stay
        taken until `scheduler.blocks.reclaim`, and its output."""
        table = self.scheduler.detach(request)
        self.runner.release(request)
        for drafter in (self.drafter, self._modelled_drafter):
            if drafter is not None:
                drafter.forget(request)
        return table, self._outputs.pop(request.id)

    def attach(self, request: Request, table: list[int], output: OutputBuilder) -> None:
        """Go on with a request that another engine has detached; its cache lies in the lent blocks
        `table`."""
        self.scheduler.attach(request, table)
        self._outputs[request.id] = output

    def _skip_filter(self, request: Request) -> None:
        """Queue a request that will never run, with the length that was found to fit."""
        assert self._filter is not None
        request.replace_context(self._filter.kept(request.num_prompt_tokens))
        self.scheduler.add(request)

    @property
    def unfiltered(self) -> tuple[Request, ...]:
        """Requests that wait for the prompt filter."""
        return tuple(self._unfiltered)

    @property
    def num_waiting(self) -> int:
        """Requests that hold no cache: in the scheduler's queue, or before a prompt filter."""
        return self.scheduler.num_waiting + len(self._unfiltered)

    def output(self, id: str | int) -> OutputBuilder:
        """What request `id` has yielded so far."""
        return self._outputs[id]

    def forget(self, id: str | int) -> None:
        """Drop the output of an ended request."""
        self._outputs.pop(id, None)

    def close(self) -> None:
        """End the processes that other ranks of the model run in, where there are any; the engine is of no
        use after that. Closing twice is fine, and the end of this process does the same."""
        self.runner.close()

    # --- running ---

    def play(
        self,
        items: Iterable[tuple[float, Prompt, SamplingParams]],
        *,
        concurrency: int | None = None,
        on_end: Callable[[Request], None] | None = None,
        record_times: bool = False,
    ) -> list[Request]:
        """Run a workload of (arrival time in seconds from now, prompt, parameters), in order of arrival.

        With `concurrency`, arrival times are ignored: that many requests are kept going. Returns all
        requests, ended.
        """
        arrivals = Arrivals(items, self.clock.now(), concurrency, self.host)
        done: list[Request] = []
        while arrivals.pending or self.has_work:
            for sent, prompt, params in arrivals.seen(self.clock.now(), self.horizon):
                self.add(prompt, params, arrival_time=sent, record_times=record_times)
            if not self.has_work:
                self.clock.wait_until(arrivals.next_time())
                continue
            for request in self.take_ended() if self.coast(arrivals.next_time()) else self.step():
                arrivals.ended(request, self.clock.now())
                done.append(request)
                if on_end is not None:
                    on_end(request)
        check(self.scheduler)
        return done

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Complete all `prompts`; results in their order."""
        each = list(params) if isinstance(params, Sequence) else [params] * len(prompts)
        if len(each) != len(prompts):
            raise ValueError(
                f"{len(prompts)} prompts but {len(each)} sampling parameters; give one for all, or one each"
            )
        requests = [self.add(p, s) for p, s in zip(prompts, each, strict=True)]
        while any(not r.is_finished for r in requests):
            self.step()
        return [self._outputs.pop(r.id).completion() for r in requests]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[str]:
        """Text of the completion, piece by piece as it becomes certain. Closing the iterator cancels the
        request."""
        request = self.add(prompt, params)
        output = self._outputs[request.id]
        try:
            while not request.is_finished:
                self.step()
                if piece := output.take():
                    yield piece
            if piece := output.take():
                yield piece
        finally:
            self.cancel(request.id)
            self.forget(request.id)

    def score(self, token_ids: Sequence[int], num_prompt: int = 1) -> torch.Tensor:
        """Logits [T - num_prompt, vocab], techniques on, that predict each token of `token_ids` after the
        first `num_prompt`, which are treated as a prompt (filtered where a technique does that). Only while
        nothing runs."""
        assert not self.has_work, "scoring needs an idle engine"
        if not 1 <= num_prompt < len(token_ids):
            raise ValueError(
                f"scoring {len(token_ids)} tokens needs a prompt of 1 … {len(token_ids) - 1} of them, not "
                f"{num_prompt}"
            )
        self._check_vocabulary(token_ids)
        prompt, rest = list(token_ids[:num_prompt]), list(token_ids[num_prompt:])
        if self._filter is not None and self._filter.kept(num_prompt) < num_prompt:
            prompt = self._kept(prompt)
        ids = prompt + rest
        blocks = self.scheduler.blocks
        need = blocks.blocks_for(len(ids))
        if need > blocks.num_blocks:
            raise ValueError(f"{len(ids)} tokens do not fit into a cache of {blocks.num_slots}: score fewer")
        blocks.forget_cached()
        return self.runner.score(ids, len(prompt), range(need), self.scheduler.config.max_num_batched_tokens)

    # --- prompts ---

    def encode(self, prompt: Prompt) -> Sequence[int] | int:
        """Token ids of `prompt`, or their number. ValueError for text without a tokenizer."""
        if not isinstance(prompt, str):
            return prompt
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer: give token ids instead of text")
        return self.tokenizer.encode(prompt)

    def _check_vocabulary(self, ids: Sequence[int] | int, of: str = "token ids") -> None:
        if isinstance(ids, int):
            return
        vocab = self.runner.model.spec.vocab_size
        if ids and not (min(ids) >= 0 and max(ids) < vocab):
            raise ValueError(f"{of} must lie in 0 … {vocab - 1}; given {min(ids)} … {max(ids)}")

    def _matcher(self, params: SamplingParams) -> Matcher | None:
        """What holds an output to the grammar of `params`; None where they have none."""
        self._check_vocabulary([token for token, _ in params.logit_bias], "token ids of logit_bias")
        if params.grammar is None:
            return None
        if not self.device.real:
            raise ValueError("a grammar chooses tokens, and a modelled device computes none: drop it")
        if self.tokenizer is None:
            raise ValueError("a grammar needs a tokenizer, and this model has none")
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, self.runner.model.spec.vocab_size)
        return self._grammars.matcher(params.grammar)
