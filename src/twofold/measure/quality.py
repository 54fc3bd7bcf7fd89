"""Quality against the unmodified model: KL divergence, top-1 agreement and perplexity on text, passkey
retrieval.

Every window of text is a prompt and a continuation. The prompt goes through the engine as any prompt does
(chunked, filtered, cached as the techniques say); the continuation is teacher-forced behind it, and its
predictions are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from twofold.engine.build import Progress
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.fleet.fleet import Fleet
from twofold.measure.passkey import ANSWER_TOKENS, Passkey, make_passkeys
from twofold.plan import QualityPlan
from twofold.report.schema import Figure, Quality
from twofold.workloads.text import prose

PROMPT_SHARE = 0.75
"""Share of a window that is prompt."""


@dataclass(slots=True)
class Window:
    """One stretch of text: token ids, how many are prompt, and the unmodified model's log-probabilities
    [rest, vocab]."""

    ids: list[int]
    num_prompt: int
    logprobs: torch.Tensor

    @property
    def targets(self) -> torch.Tensor:
        """The tokens that are predicted: [rest]."""
        return torch.tensor(self.ids[self.num_prompt :])


@dataclass(slots=True)
class QualityBaseline:
    """What the unmodified model says on the quality texts."""

    windows: list[Window]
    passkeys: list[Passkey]
    perplexity: float
    source: str

    @classmethod
    def of(cls, engine: Engine, plan: QualityPlan, progress: Progress | None = None) -> QualityBaseline:
        """Evaluate `engine`, which runs the unmodified model. ValueError where it has no tokenizer."""
        if engine.tokenizer is None:
            raise ValueError(
                "quality is measured on text, and this model has no tokenizer; switch quality off in the plan"
            )
        tokenizer = engine.tokenizer
        try:
            text = prose() if plan.text is None else plan.text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"quality text {str(plan.text)!r} cannot be read: {error}") from None
        num_prompt = int(plan.window * PROMPT_SHARE)
        count = max(1, round(plan.tokens / (plan.window - num_prompt)))
        ids = tokenizer.encode(text[: count * plan.window * 8], special=False)
        if len(ids) < count * plan.window:
            raise ValueError(
                f"the quality text has {len(ids)} tokens; {count} windows of {plan.window} need more"
            )
        windows, nll = [], 0.0
        for i in range(count):
            piece = ids[i * plan.window : (i + 1) * plan.window]
            logprobs = engine.score(piece, num_prompt).log_softmax(-1).cpu()
            window = Window(piece, num_prompt, logprobs)
            nll += _nll(logprobs, window.targets)
            windows.append(window)
            if progress is not None:
                progress("quality of the unmodified model", i + 1, count)
        keys = [
            key for length in plan.passkey for key in make_passkeys(tokenizer, length, plan.passkey_trials)
        ]
        source = "Python's language reference (pydoc_data.topics)" if plan.text is None else str(plan.text)
        return cls(windows, keys, math.exp(nll / sum(len(w.targets) for w in windows)), source)


def measure_quality(
    engine: Engine | Fleet, baseline: QualityBaseline, progress: Progress | None = None
) -> Quality:
    """Quality of `engine`'s model and techniques against `baseline`."""
    kl = nll = 0.0
    agreed = tokens = 0
    for i, window in enumerate(baseline.windows):
        ours = engine.score(window.ids, window.num_prompt).log_softmax(-1).cpu()
        theirs = window.logprobs
        kl += float((theirs.exp() * (theirs - ours)).sum(-1).double().sum())
        agreed += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        nll += _nll(ours, window.targets)
        tokens += len(ours)
        if progress is not None:
            progress("quality", i + 1, len(baseline.windows))
    return Quality(
        tokens=tokens,
        kl_divergence=Figure.exact(max(kl / tokens, 0.0), "nat"),
        top1_agreement=Figure.exact(agreed / tokens, "1"),
        perplexity=Figure.exact(math.exp(nll / tokens), "1"),
        perplexity_baseline=Figure.exact(baseline.perplexity, "1"),
        passkey=_passkey_scores(engine, baseline.passkeys),
        source=baseline.source,
    )


def _nll(logprobs: torch.Tensor, targets: torch.Tensor) -> float:
    """Sum of negative log-likelihoods of `targets` [n] under `logprobs` [n, vocab], in nat."""
    return -float(logprobs.gather(-1, targets[:, None]).double().sum())


def _passkey_scores(engine: Engine | Fleet, passkeys: list[Passkey]) -> dict[int, Figure]:
    params = SamplingParams(max_tokens=ANSWER_TOKENS)
    answers = engine.generate([key.ids for key in passkeys], params)
    found: dict[int, list[bool]] = {}
    for key, answer in zip(passkeys, answers, strict=True):
        found.setdefault(key.length, []).append(key.found(answer.text))
    return {length: Figure.exact(sum(hits) / len(hits), "1") for length, hits in found.items()}
