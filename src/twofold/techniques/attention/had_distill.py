"""Distillation of attention over signs: heads learn, layer by layer and then together, to attend as the
model does.

Source: arXiv:2502.01770, section 3.2, whose stages these are: the sign is approached by tanh, c from 5 to
1, then from 1 to 0.05, then it is the sign itself with a straight-through gradient; all three with the
divergence of the attention weights as loss, and last the divergence of the outputs alone. Differs: what
is trained are matrices, thresholds and factors of heads, all weights of the model stay; in the first
three stages every layer learns from the unmodified model's queries and keys, so that layers do not wait
for each other, and N is not applied yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from twofold.devices.torch_device import TorchDevice
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheLayer, Heads
from twofold.models.step import StepInput
from twofold.models.tensors import Checkpoint
from twofold.ops.attention import Span
from twofold.techniques.attention.had_cache import HeadCodes
from twofold.techniques.attention.had_layout import TopN
from twofold.techniques.attention.had_student import StudentHeads, TaughtLayer

Progress = Callable[[str, int, int], None]

_STAGES = ((5.0, 1.0), (1.0, 0.05), (0.0, 0.0))
"""c at the beginning and at the end of each stage with the loss of attention."""

_MAP_RATE, _RATE = 5e-3, 2e-2
"""Learning rates (Adam) of matrices, and of thresholds and factors; in the last stage a tenth of them."""


@dataclass(frozen=True)
class Lessons:
    """How long is learned. steps: of each layer, over the three stages; batch: texts of one of them;
    tuning: steps of all layers together, a text each."""

    steps: int = 150
    batch: int = 2
    tuning: int = 40
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """What came out: the heads by layer, and the divergence of the next token's probabilities from the
    unmodified model's on text that was not trained on, in nat: with plain signs, and with what was
    learned."""

    codes: list[HeadCodes]
    before: float
    after: float


def distil(
    checkpoint: Checkpoint,
    texts: torch.Tensor,
    held_out: torch.Tensor,
    top: TopN,
    lessons: Lessons,
    progress: Progress | None = None,
) -> Distilled:
    """Heads of `checkpoint`'s model that attend by signs, learned from texts [W, T] of token ids;
    held_out [V, T] judges."""
    report = progress or (lambda what, done, total: None)
    torch.manual_seed(lessons.seed)
    taught = _Taught(checkpoint, texts.shape[1], top)
    seen = [taught.watch(text) for text in texts]
    students = [_student(layer, [text[i] for text in seen]) for i, layer in enumerate(taught.layers)]
    before = taught.divergence(held_out, students)
    for i, student in enumerate(students):
        q, k = (torch.stack([text[i][side] for text in seen]) for side in (0, 1))
        _learn_attention(student, q, k, lessons)
        report("distilling layers", i + 1, len(students))
    _learn_outputs(taught, students, texts, lessons, report)
    return Distilled([s.codes() for s in students], before, taught.divergence(held_out, students))


class _Taught:
    """A model whose attention is a teacher's or a student's."""

    def __init__(self, checkpoint: Checkpoint, tokens: int, top: TopN) -> None:
        self.layers: list[TaughtLayer] = []
        self.top = top
        options = ModelOptions(cache=self, max_positions=tokens)
        self.model = build_model(checkpoint.spec, options, checkpoint)
        self.device = TorchDevice("cpu")

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """A TaughtLayer."""
        del layer
        self.layers.append(TaughtLayer(heads, block_size, self.top))
        return self.layers[-1]

    def logprobs(self, text: torch.Tensor, students: Sequence[StudentHeads] | None) -> torch.Tensor:
        """Log-probabilities [T, vocab] behind every token of `text` [T], the students attending (None:
        none)."""
        for i, layer in enumerate(self.layers):
            layer.student = None if students is None else students[i]
        tokens = len(text)
        step = StepInput([Span(tokens, tokens)], tokens, tokens, text, torch.arange(tokens))
        self.device.begin_step()
        logits = self.model.forward(step, self.device)
        assert logits is not None
        return logits.log_softmax(-1)

    @torch.no_grad()
    def watch(self, text: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Queries [H, T, D] and keys [K, T, D] of each layer while the unmodified model reads `text` [T]."""
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in self.layers:
            layer.see = lambda q, k: seen.append((q.transpose(0, 1).clone(), k.transpose(0, 1).clone()))
        self.logprobs(text, None)
        for layer in self.layers:
            layer.see = lambda q, k: None
        return seen

    @torch.no_grad()
    def divergence(self, texts: torch.Tensor, students: Sequence[StudentHeads]) -> float:
        """Mean KL divergence over all tokens of texts [V, T], in nat."""
        found = [_kl(self.logprobs(text, None), self.logprobs(text, students)) for text in texts]
        return float(torch.stack(found).mean())


def _student(layer: TaughtLayer, seen: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> StudentHeads:
    q, k = (torch.stack([text[side] for text in seen]) for side in (0, 1))
    return StudentHeads(layer.heads, *(x.std(dim=(0, 2, 3), correction=0) for x in (q, k)))


def _kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of log-probabilities [..., N]."""
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def _optimiser(students: Sequence[StudentHeads], factor: float) -> torch.optim.Adam:
    maps = [p for s in students for p in s.maps]
    rest = [p for s in students for p in s.rest]
    groups = [{"params": maps, "lr": _MAP_RATE * factor}, {"params": rest, "lr": _RATE * factor}]
    return torch.optim.Adam(groups)


def sharpness(progress: float) -> float:
    """c at that share of the first three stages, which are equally long; within one it falls
    exponentially."""
    stage = min(int(progress * len(_STAGES)), len(_STAGES) - 1)
    first, last = _STAGES[stage]
    return 0.0 if last == 0 else first * (last / first) ** (progress * len(_STAGES) - stage)


def _learn_attention(student: StudentHeads, q: torch.Tensor, k: torch.Tensor, lessons: Lessons) -> None:
    """Queries q [W, H, T, D] and keys k [W, K, T, D] of the unmodified model teach one layer how to
    attend."""
    optimiser = _optimiser([student], 1.0)
    for step in range(lessons.steps):
        some = torch.randperm(len(q))[: lessons.batch]
        with torch.no_grad():
            wanted = student.plain_scores(q[some], k[some]).log_softmax(-1)
        scores = student.scores(q[some], k[some], sharpness(step / lessons.steps))
        optimiser.zero_grad()
        torch.autograd.backward(_kl(wanted, scores.log_softmax(-1)))
        optimiser.step()


def _learn_outputs(
    taught: _Taught,
    students: Sequence[StudentHeads],
    texts: torch.Tensor,
    lessons: Lessons,
    report: Progress,
) -> None:
    """All layers learn together what the unmodified model says, by hard signs and their nearest entries."""
    optimiser = _optimiser(students, 0.1)
    for step in range(lessons.tuning):
        text = texts[step % len(texts)]
        with torch.no_grad():
            wanted = taught.logprobs(text, None)
        optimiser.zero_grad()
        torch.autograd.backward(_kl(wanted, taught.logprobs(text, students)))
        optimiser.step()
        report("distilling outputs", step + 1, lessons.tuning)
