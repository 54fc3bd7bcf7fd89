"""What a deployment does in the long run, from a handful of its steps: the estimate that a search compares
candidates by.

One replica, requests of `prompt` + `output` tokens, n decodes each (`output` - 1 over the tokens a decode
yields). From the step model: p(b), seconds between the tokens of a sequence where b decode together and
nothing else happens; D, seconds by which the prefill of one request delays all others; L, seconds of that
prefill. With X requests per second the time between tokens is

τ = p / (1 - X·D) (in a second, X·D of it is spent on prompts)

Closed load, c requests kept going: X = c / (L + n·τ) (Little's law), a quadratic in X. The first c arrive
together, so their first tokens are spread over c·D; the last c are disturbed by ever fewer others.

Open load, Poisson at rate X: the number b decoding solves b = X·n·τ(1 + b), where 1 + b is what a request
that decodes sees (arrivals see averages). b varies as in M/D/∞: its mean over a request's life has variance
2b/3, the number of prompts in it b, their covariance is b/2. Waiting is in `queueing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, sqrt

from twofold.engine.build import Limits
from twofold.engine.memory import MemoryPlan
from twofold.explore.deployment import Deployed, Times
from twofold.explore.load import Estimate, Shape
from twofold.explore.queueing import NORMAL, SHARE, gated_first_token, quantile, queued_wait, seat_wait
from twofold.explore.space import Setting

Within = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class _Prefill:
    """What one request's prefill takes. work: beyond the decodes that run anyway; unit: seconds of steps per
    prompt where steps are filled; latency: of one prompt alone; step: of a filled one, which computes
    `tokens`; shared: whether prompts share steps."""

    work: Times
    unit: float
    latency: float
    step: Times
    tokens: int
    shared: bool


_NOTHING = Times(0.0, 0.0, 0.0)


class SteadyState:
    """A deployment under one setting; `estimate` gives its figures."""

    def __init__(
        self, deployed: Deployed, setting: Setting, memory: MemoryPlan, limits: Limits, shape: Shape
    ) -> None:
        cut = deployed.plan.parallel
        self.deployed, self.setting, self.shape = deployed, setting, shape
        self.dp, self.pp = cut.dp, cut.pp
        self.memory, self.budget = memory, limits.max_num_batched_tokens
        self.prompt = deployed.kept(shape.prompt)
        self.context = self.prompt + max(1, shape.output // 2)
        self.decodes = (shape.output - 1) / deployed.yielded
        # A sequence holds half of its output on average while it runs.
        held = -(-self.context // limits.block_size)
        fitting = memory.num_blocks // held if memory.block_bytes else limits.max_num_seqs
        self.seats = max(1, min(limits.max_num_seqs, fitting))
        front = deployed.frontend
        self.intake = 0.0 if front is None else front.request.value + front.prompt_token.value * shape.prompt
        self.response = 0.0 if front is None else front.response.value
        self.delay = 1 if deployed.host is not None and deployed.host.overlapped else 0

    def estimate(self, statistics: Sequence[str] = ()) -> Estimate:
        """All figures; of TTFT and TPOT the mean and the percentiles in `statistics`."""
        load = self.setting
        if load.rate is not None or (load.concurrency is None and self.shape.rate is not None):
            return self._open((load.rate or self.shape.rate or 0.0) / self.dp, statistics)
        total = self.shape.requests or max(4, 4 * (load.concurrency or 1))
        return self._closed(max(1, (load.concurrency or 1) // self.dp), total / self.dp, statistics)

    # --- steps ---

    def _decode(self, running: float) -> tuple[Times, int, float]:
        """The decode step where that many run: its times, its batch, and p."""
        batch = max(1, round(running / self.pp))
        step = self.deployed.decode(batch, self.context)
        return step, batch, max(step.latency, self.pp * step.slot)

    def _prefill(self, batch: int, most: float) -> _Prefill:
        """A prefill beside `batch` decodes, where at most `most` prompts come at a time."""
        deployed, prompt = self.deployed, self.prompt
        beside = batch if deployed.policy.mixes else 0
        base = deployed.decode(beside, self.context) if beside else _NOTHING
        first, together = deployed.chunk(prompt, batch, self.budget)
        tokens = max(first, min(together, round(most * prompt)))
        step = deployed.prefill(beside, self.context, prompt, tokens, (prompt - tokens) // 2)
        filtering = deployed.filtering(self.shape.prompt)
        whole, rest = divmod(prompt, first)
        alone = step if first == tokens else deployed.prefill(beside, self.context, prompt, first)
        ending = deployed.prefill(beside, self.context, prompt, rest, prompt - rest) if rest else _NOTHING
        shared = first == prompt or together == first == self._budget_left(beside)
        if shared:
            work, unit = step.minus(base).times(prompt / tokens), step.slot * prompt / tokens
        else:
            last = ending.minus(base) if rest else _NOTHING
            work = step.minus(base).times(whole).plus(last)
            unit = step.slot * whole + ending.slot
        work = Times(max(0.0, work.latency), max(0.0, work.slot), work.joules).plus(filtering)
        latency = alone.latency * whole + ending.latency + filtering.latency
        return _Prefill(work, unit + filtering.slot, latency, step, tokens, shared)

    def _budget_left(self, decodes: int) -> int:
        return max(1, self.budget - decodes)

    def _joules(self, step: Times, batch: float, prefill: _Prefill) -> float:
        """Per generated token. A step's joules are those of all replicas, which do the same."""
        return (self.decodes * step.joules / batch + prefill.work.joules) / self.dp / self.shape.output

    # --- a stated number of requests at a time ---

    def _closed(self, kept: int, total: float, statistics: Sequence[str]) -> Estimate:
        kept = max(1, min(kept, round(total)))
        inside = min(kept, self.seats)
        mixes = self.deployed.policy.mixes
        running = float(inside)
        for _ in range(3):
            step, batch, between = self._decode(running)
            prefill = self._prefill(max(0, round((running - 1.0) / self.pp)), inside)
            delay = prefill.work.slot * (inside - 1) / inside  # one's own prefill delays nobody's decodes
            decoding = self.decodes * between
            if mixes:
                rate = min(_closed_rate(inside, decoding, prefill.latency, delay), 1.0 / prefill.unit)
            else:
                rate = inside / (decoding + inside * prefill.unit)
            slowed = between / max(1e-9, 1.0 - rate * delay)
            if rate * prefill.unit > 1.0 - 1e-9:  # a prompt in every step
                slowed = min(slowed, max(prefill.step.latency, self.pp * prefill.step.slot))
            before, running = running, max(1.0, min(inside, rate * self.decodes * slowed))
            if round(running / self.pp) == round(before / self.pp):
                break
        waiting = (kept - inside) / rate
        queued = max(0.0, inside / rate - self.decodes * slowed - prefill.latency) if mixes else 0.0
        # The first come together and are prefilled one group after the other.
        together = min(1.0, inside / total) if mixes else 1.0
        alone = self._prefill(0, inside)
        unit = max((alone.unit + prefill.unit) / 2.0, self.intake)
        fixed = self.intake + self.response
        group = max(1, alone.tokens // self.prompt) if alone.shared else 1
        first = max(alone.latency, group * alone.unit) + fixed
        last = first + max(0, inside - group) * unit
        fixed += waiting + queued + self.delay * step.latency
        settled = self._settled(prefill, step, min(group, inside), inside, fixed)

        def within(t: float) -> float:
            early = float(t >= last) if t >= last or t <= first else (t - first) / (last - first)
            return together * early + (1.0 - together) * sum([t >= s for s in settled]) / len(settled)

        ttft = {"mean": together * (first + last) / 2.0 + (1.0 - together) * sum(settled) / len(settled)}
        tpot = {"mean": between + (slowed - between) * (1.0 - together / 2.0)}
        for name in statistics:
            ttft[name] = quantile(within, SHARE[name], max(last, settled[-1]))
            tpot[name] = between + (slowed - between) * min(1.0, SHARE[name] / together)
        return self._result(rate, ttft, tpot, self._joules(step, batch, prefill), running)

    def _settled(self, prefill: _Prefill, base: Times, group: int, inside: int, fixed: float) -> list[float]:
        """Times to first token of a group that was prefilled together once, and so comes back together. The
        step that holds the end of a prompt is full where another group follows."""
        found = []
        extra = prefill.step.latency - base.latency
        for j in range(1, group + 1):
            whole, rest = divmod(j * self.prompt, prefill.tokens)
            full = 1.0 - group / inside
            ending = prefill.step.latency - (1.0 - full) * extra * (1.0 - rest / prefill.tokens)
            found.append(
                fixed + max(prefill.latency, whole * prefill.step.latency + (ending if rest else 0.0))
            )
        return found

    # --- random arrivals ---

    def _open(self, rate: float, statistics: Sequence[str]) -> Estimate:
        running = 0.0
        for _ in range(12):
            step, batch, between = self._decode(1.0 + running)
            prefill = self._prefill(batch, 1.0)
            spare = 1.0 - rate * prefill.work.slot
            before, running = running, rate * self.decodes * between / spare if spare > 0 else float("inf")
            if running > self.seats or rate * prefill.unit >= 1:
                return self._overloaded(rate, statistics)
            if abs(running - before) < 0.02 * running + 0.05:
                break
        slowed = between / spare
        joining = prefill.shared and prefill.tokens >= self.prompt
        held = self.decodes * slowed + prefill.latency
        if rate * held >= self.seats:
            return self._overloaded(rate, statistics)
        if joining:
            mean, within = gated_first_token(rate, step.slot, prefill.work.slot)
            fixed = prefill.step.latency - prefill.step.slot
        else:
            mean, within = queued_wait(rate, prefill.unit, step.slot)
            fixed = prefill.latency
        idle, alone = exp(-rate * held), self._prefill(0, 1.0).latency
        mean = (1.0 - idle) * (mean + fixed) + idle * alone
        busy_within, busy_fixed = within, fixed

        def within_all(t: float) -> float:
            return (1.0 - idle) * busy_within(t - busy_fixed) + idle * (t >= alone)

        fixed = 0.0
        fixed += self.intake + self.response + self.delay * step.latency
        seat_mean, seat_within = seat_wait(rate, held, self.seats)
        ttft = {"mean": mean + fixed + seat_mean}
        tpot = {"mean": slowed}
        spread = self._spread(rate, running, between, prefill)
        for name in statistics:
            share = SHARE[name]
            ttft[name] = (
                fixed
                + quantile(within_all, share, 4.0 * mean)
                + quantile(seat_within, share, 1e-3 + 4.0 * seat_mean)
            )
            tpot[name] = slowed + NORMAL[name] * spread
        busy = running / -_expm1(-running) if running > 0 else 1.0
        return self._result(
            rate, ttft, tpot, self._joules(step, max(1.0, busy / self.pp), prefill), running, arrivals=True
        )

    def _spread(self, rate: float, running: float, between: float, prefill: _Prefill) -> float:
        """Standard deviation of the time between tokens over requests."""
        del rate
        if running <= 0 or not self.decodes:
            return 0.0
        more = max(1.0, sqrt(running))
        slope = max(0.0, (self._decode(1.0 + running + more)[2] - between) / more)
        disturbed = prefill.work.slot / self.decodes
        return sqrt(running * (2.0 / 3.0 * slope * slope + slope * disturbed + disturbed * disturbed))

    def _overloaded(self, rate: float, statistics: Sequence[str]) -> Estimate:
        """More arrives than can be served: the queue grows for as long as requests come."""
        total = (self.shape.requests or 4) / self.dp
        full = self._closed(self.seats, max(total, float(self.seats)), statistics)
        served = full.tokens_per_s / self.dp / self.shape.output
        growth = total * max(0.0, 1.0 / served - 1.0 / rate)
        ttft = {
            name: value + growth * (0.5 if name == "mean" else SHARE[name])
            for name, value in full.ttft.items()
        }
        e2e = full.e2e + growth / 2.0
        return Estimate(
            full.tokens_per_s, ttft, full.tpot, e2e, full.joules, full.memory, full.running, keeps_up=False
        )

    def _result(
        self,
        rate: float,
        ttft: dict[str, float],
        tpot: dict[str, float],
        joules: float,
        running: float,
        *,
        arrivals: bool = False,
    ) -> Estimate:
        per_token = {name: value / self.deployed.yielded for name, value in tpot.items()}
        e2e = ttft["mean"] + self.decodes * tpot["mean"]
        if arrivals and (total := (self.shape.requests or 4) / self.dp) > 0:
            # As a run counts it: from the first arrival to the last token.
            rate = total / ((total - 1.0 / self.dp) / rate + e2e)
        tokens = rate * self.shape.output * self.dp
        return Estimate(tokens, ttft, per_token, e2e, joules, self.memory.total, running)


def _closed_rate(inside: int, decoding: float, latency: float, delay: float) -> float:
    """X of X·(L + n·p / (1 - X·D)) = c: the smaller root, which lies below 1 / D."""
    a = latency * delay
    b = latency + decoding + inside * delay
    if a <= 1e-12 * b * b:
        return inside / b
    return (b - sqrt(max(0.0, b * b - 4.0 * a * inside))) / (2.0 * a)


def _expm1(x: float) -> float:
    return exp(x) - 1.0
