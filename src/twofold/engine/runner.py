"""Runner: turns the scheduler's batch into a forward pass on the device, and logits into tokens.

On a real device it builds the tensors; on a modelled one there are none, and whoever models the drafts says
how many of them were right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from twofold.devices.base import Device, StepCost
from twofold.engine.batch import Batch, Scheduled
from twofold.engine.draft import ModelledDrafts
from twofold.engine.rank import Rank
from twofold.engine.request import Request
from twofold.engine.retention import Retention
from twofold.engine.sampler import SampledRow, TokenLogprobs
from twofold.engine.sending import Sending
from twofold.engine.step_tensors import shape_of, slots_of, step_of
from twofold.engine.swapping import PLAIN_SWAPPING, Swapping
from twofold.models.cache import CacheLayer, CacheSize
from twofold.models.step import StepInput, Written
from twofold.ops.attention import Span
from twofold.ops.compaction import Compaction, Observed
from twofold.ops.elementwise import Pool, Sample

SCORED = 32
"""Tokens that teacher-forced scoring computes at once behind the prompt."""


@dataclass(slots=True)
class StepResult:
    """What a step yielded per entry of its batch: token ids (real) or their number (modelled; None there: one
    for each that samples), and log-probabilities. pooled: for each entry that is pooled, in order, the sum of
    its tokens' last hidden states [entries, hidden]."""

    cost: StepCost
    tokens: list[list[int]] | None = None
    counts: list[int] | None = None
    logprobs: list[list[TokenLogprobs | None]] = field(default_factory=list)
    pooled: torch.Tensor | None = None


class Runner:
    """Executes batches on `rank`.

    allocates the caches on a real device; gives every running request a row in the per-sequence stores.
    is_free: whether a cache block belongs to nobody. sending: what carries caches off while they are computed
    (None: nothing does).
    """

    def __init__(
        self,
        rank: Rank,
        size: CacheSize,
        *,
        num_host_blocks: int = 0,
        is_free: Callable[[int], bool] = lambda block: False,
        drafts: ModelledDrafts | None = None,
        retention: Retention | None = None,
        swapping: Swapping = PLAIN_SWAPPING,
    ) -> None:
        self.rank = rank
        self.model = rank.model
        self.device = rank.device
        self.size = size
        self.drafts = drafts
        self._is_free = is_free
        self.retention = retention
        self.sending: Sending | None = None
        self.overlapped = swapping.overlapped
        rank.in_groups = swapping.group > 0
        if swapping.overlapped and rank.device.real:
            rank.copier = ThreadPoolExecutor(1, "copier")
        self.caches: list[CacheLayer] = rank.caches
        self.block_bytes = rank.block_bytes
        self._free_rows = list(range(size.max_seqs - 1, -1, -1))
        self._rows: dict[str | int, int] = {}
        if rank.device.real:
            self.where = rank.where
            rank.allocate(size, num_host_blocks)
        elif rank.paging is not None:
            rank.paging.prepare(rank.caches, size)

    # --- a step ---

    def run(self, batch: Batch) -> StepResult:
        """Execute `batch`: its compactions and copies, the forward pass, the choice of tokens."""
        written = None if self.sending is None else self.sending.begin(batch)
        if self.device.real:
            return self._compute(batch, written)
        device, copies = self.device, None
        if self.overlapped and (batch.swap_out or batch.swap_in):
            device.begin_step()
            self._swap(batch)
            copies = device.end_step()
        device.begin_step()
        self._compact(batch.compactions)
        if copies is None:
            self._swap(batch)
        if batch.entries:
            self.charge(self._shape(batch))
        cost = device.end_step()
        if copies is not None:
            cost = cost.beside(copies, getattr(device, "idle_watts", 0.0))
        return StepResult(cost, counts=self._judge(batch))

    @torch.inference_mode()
    def _compute(self, batch: Batch, written: Written | None) -> StepResult:
        device = self.device
        device.begin_step()
        self._compact(batch.compactions)
        self._swap(batch)
        if not batch.entries:
            self.rank.settle()
            return StepResult(device.end_step(), [])
        rows = [self._row(e.request) for e in batch.entries]
        step = step_of(batch, rows, self.size.block_size, self.where, self._observed_of(batch))
        step.written = written
        logits = self.rank.forward(step)
        tokens: list[int] = []
        logprobs: list[TokenLogprobs | None] = []
        if logits is not None:
            asked = [
                SampledRow(e.request, j) for e in batch.entries if e.samples for j in range(e.num_drafts + 1)
            ]
            tokens, logprobs = device.execute(Sample(len(asked), logits.shape[-1]), logits, asked)
        result = self._verify(batch, tokens, logprobs)
        if step.hidden is not None:
            counts = [e.num_tokens for e in batch.entries if e.request.pool]
            num, width = step.hidden.shape
            op = Pool(num, width, len(counts), step.hidden.element_size())
            result.pooled = device.execute(op, step.hidden, counts)
        if written is not None and self.sending is not None:
            self.sending.end()
        self.rank.settle()
        result.cost = device.end_step()
        return result

    @torch.inference_mode()
    def score(
        self, token_ids: Sequence[int], num_prompt: int, table: Sequence[int], chunk: int
    ) -> torch.Tensor:
        """Logits [T - num_prompt, vocab] that predict each token after the prompt from all before it.

        The prompt goes through the cache blocks `table` in chunks of `chunk`, the rest in chunks of SCORED,
        so that the cache is read about as decoding reads it.
        """
        row = self._free_rows[-1]
        parts = []
        context = num_prompt - 1
        start, slot, last = 0, 0, len(token_ids) - 1  # the newest token predicts nothing that is known
        while start < last:
            prompt = start < context
            end = min(start + chunk, context) if prompt else min(start + min(chunk, SCORED), last)
            ids = token_ids[start:end]
            keys = slot + len(ids)
            wanted = 0 if prompt else len(ids)
            step = StepInput(
                [Span(len(ids), keys)],
                len(ids),
                wanted,
                torch.tensor(ids, device=self.where),
                torch.arange(start, end, device=self.where),
                torch.tensor(slots_of(table, slot, keys, self.size.block_size), device=self.where),
                rows=[row],
                block_tables=[table],
                block_size=self.size.block_size,
                observed=self._observed([(start, len(ids), context)]),
            )
            self.device.begin_step()
            logits = self.rank.forward(step)
            slot = keys if self.retention is None else self.retention.kept(keys, end, context)
            if slot < keys:
                self._compact([Compaction(table, keys, slot, end, context)])
            self.device.end_step()
            if logits is not None:
                parts.append(logits.clone())  # the device's own are valid until its next step
            start = end
        if self.rank.keeps_rows:
            self.rank.release(row)
        return torch.cat(parts)

    def release(self, request: Request, *, settled: bool = True) -> None:
        """`request` holds no device blocks any more: its row is free. settled: nothing is still to be copied
        from the blocks that it held."""
        row = self._rows.pop(request.id, None)
        if row is not None:
            if self.rank.keeps_rows:
                held = self.rank.held(row) if settled else ()
                self.rank.release(row, [block for block in held if self._is_free(block)])
            self._free_rows.append(row)

    def follow(self, requests: Iterable[Request]) -> None:
        """Take note of the blocks of `requests`, whose steps were charged without being shown here."""
        if self.rank.paging is not None:
            for request in requests:
                self.rank.paging.follow(self._row(request), request.block_table)

    def close(self) -> None:
        """Let go of what outlives the engine: other ranks' processes."""
        self.rank.close()

    # --- modelled ---

    def charge(self, step: StepInput) -> None:
        """Charge the modelled device for the forward pass of `step` and the choice of its tokens."""
        if self.rank.paging is not None:
            self.rank.paging.map(step, self.device)
        self.device.forward(self, step)

    def forward(self, step: StepInput, device: Device) -> None:
        """The ops of a step: what a modelled device charges for."""
        self.model.forward(step, device)
        if step.num_logits:
            device.execute(Sample(step.num_logits, self.model.spec.vocab_size))

    def _shape(self, batch: Batch) -> StepInput:
        step = shape_of(batch, self._observed_of(batch))
        if self.rank.paging is not None:
            step.rows = [self._row(e.request) for e in batch.entries]
            step.block_tables = [e.request.block_table for e in batch.entries]
        return step

    def _judge(self, batch: Batch) -> list[int] | None:
        """How many tokens each entry yields; None: one each that samples."""
        if self.drafts is None:
            return None
        judge = self.drafts.judge
        return [1 + judge(e.request, e.num_drafts) if e.samples else 0 for e in batch.entries]

    # --- real ---

    def _row(self, request: Request) -> int:
        row = self._rows.get(request.id)
        if row is None:
            row = self._rows[request.id] = self._free_rows.pop()
        return row

    def _verify(self, batch: Batch, tokens: list[int], logprobs: list[TokenLogprobs | None]) -> StepResult:
        """Per entry, the drafts that equal the model's own choice, then that choice."""
        out: list[list[int]] = []
        probs: list[list[TokenLogprobs | None]] = []
        at = 0
        for e in batch.entries:
            if not e.samples:
                out.append([])
                probs.append([])
                continue
            chosen = tokens[at : at + e.num_drafts + 1]
            right = 0
            while right < e.num_drafts and e.request.draft_ids[right] == chosen[right]:
                right += 1
            out.append(chosen[: right + 1])
            probs.append(logprobs[at : at + right + 1])
            at += e.num_drafts + 1
            self._commit(e, e.num_drafts - right)
        return StepResult(StepCost(), out, None, probs)

    def _commit(self, entry: Scheduled, void: int) -> None:
        request = entry.request
        if self.rank.commits and entry.num_drafts:
            self.rank.commit(self._rows[request.id], entry.num_keys - void, request.block_table)

    # --- what stays in the cache ---

    def _observed_of(self, batch: Batch) -> list[Observed | None]:
        if self.retention is None:
            return []
        # What drafts attend to does not count: they may be wrong.
        return self._observed(
            [(e.start, e.num_tokens - e.num_drafts, e.request.num_context_tokens) for e in batch.entries]
        )

    def _observed(self, entries: Sequence[tuple[int, int, int]]) -> list[Observed | None]:
        """For each (first position, tokens, context), the tokens that are watched (see
        `StepInput.observed`)."""
        if self.retention is None:
            return []
        seen = [self.retention.observed(*entry) for entry in entries]
        return seen if any(s is not None for s in seen) else []

    def _compact(self, compactions: Sequence[Compaction]) -> None:
        if not compactions:
            return
        assert self.retention is not None
        self.rank.compact(compactions)
        self.retention.counters["compactions"] += len(compactions)
        self.retention.counters["dropped"] += sum([c.entries - c.kept for c in compactions])

    def _swap(self, batch: Batch) -> None:
        for pairs, out in ((batch.swap_out, True), (batch.swap_in, False)):
            if pairs:
                self.rank.swap(pairs, out)
