"""Native scans over logits against torch, and the sampler with either against its definition over the whole
vocabulary."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import torch
from torch.testing import assert_close

from twofold.engine import sampler, sampling_torch
from twofold.engine.request import Request, SamplingParams
from twofold.engine.sampler import SampledRow
from twofold.kernels.cpu import native, sampling
from twofold.ops.elementwise import Sample

NATIVE = native()
needs_native = pytest.mark.skipif(NATIVE is None, reason="the native kernels are not built")
BOTH = [pytest.param(sampling, marks=needs_native, id="native"), pytest.param(sampling_torch, id="torch")]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=NATIVE.supported_isas() if NATIVE is not None else ["none"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if NATIVE is None:
        pytest.skip("the native kernels are not built")
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


@pytest.mark.parametrize("vocab", [1, 15, 64, 65, 511, 512, 513, 5003])
def test_argmax(isa: str, vocab: int) -> None:
    logits = torch.randn(7, vocab)
    logits[1:3] = logits[1:3].round()  # many ties: the first of them
    logits[3] = -INF
    logits[4] = -7.0
    logits[5, -1] = INF
    assert sampling.argmax(logits) == logits.argmax(-1).tolist()
    for place in range(0, vocab, max(1, vocab // 9)):
        logits[0] = -3.0
        logits[0, place:] = 2.0
        assert sampling.argmax(logits[:1]) == [place]


def test_argmax_never_chooses_nan(isa: str) -> None:
    logits = torch.randn(4, 1000)
    expected = logits.argmax(-1).tolist()
    logits[0, torch.randperm(1000)[:300]] = NAN
    expected[0] = int(logits[0].nan_to_num(-INF).argmax())
    logits[1] = NAN
    logits[2] = NAN
    logits[2, 999] = -3.0
    expected[1:3] = [0, 999]
    assert sampling.argmax(logits) == expected


def check_best(scores: torch.Tensor, k: int) -> None:
    found, ids = sampling.best(scores, k)
    expected, places = sampling_torch.best(scores, k)
    assert_close(found, expected, rtol=0, atol=0)
    assert ids.tolist() == places.tolist()


@pytest.mark.parametrize("k", [1, 2, 50, 1024, 9000])
@pytest.mark.parametrize("vocab", [1, 63, 64, 200, 4096, 9001])
def test_best(isa: str, vocab: int, k: int) -> None:
    scores = torch.randn(vocab)
    ordered = scores.sort().values
    for case in (scores, ordered, ordered.flip(0), (scores * 8).round() / 8, torch.zeros(vocab)):
        check_best(case.contiguous(), k)


def test_best_without_enough_numbers(isa: str) -> None:
    scores = torch.full((500,), -INF)
    assert sampling.best(scores, 5)[1].tolist() == []
    scores[[7, 400]] = torch.tensor([1.0, INF])
    check_best(scores, 5)
    check_best(scores, 1)
    scores[3] = NAN
    assert sampling.best(scores, 5)[1].tolist() == [400, 7]
    check_best(torch.tensor([0.0, -0.0, 0.0, -1.0]), 1)


@needs_native
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, (1 << 55) + 12345])
def test_noise_is_that_of_torch(seed: int) -> None:
    assert sampling._same_as_torch(), "this torch draws otherwise: the native sampler is right, but slow"
    ids = torch.randperm(5000)[:700]
    ids[0], ids[1] = 4999, ids[2]
    expected = sampling_torch.exponentials(seed, 5000, ids)
    assert torch.equal(sampling.exponentials(seed, 5000, ids), expected)


@needs_native
def test_noise_without_the_same_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_same_as_torch", lambda: False)
    ids = torch.tensor([3, 999, 4])
    assert torch.equal(sampling.exponentials(5, 1000, ids), sampling_torch.exponentials(5, 1000, ids))


# --- the sampler ---


def whole(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities [V] by definition: every step over the whole vocabulary."""
    logits = logits / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[-1], -INF)
    probs = logits.softmax(-1)
    if params.top_p < 1.0:
        ordered, index = probs.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        probs = probs.index_fill(0, index[before >= params.top_p], 0.0)
    if params.min_p > 0.0:
        probs = probs.masked_fill(probs < params.min_p * probs.max(), 0.0)
    return probs / probs.sum()


def drawn(logits: torch.Tensor, row: SampledRow) -> int:
    key = f"{row.request.params.seed}:{row.offset}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")
    probs = whole(logits, row.request.params)
    return int(torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(number)))


SAMPLINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 50},
    {"temperature": 1.5, "top_k": 1000, "top_p": 0.95},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 3.0, "top_p": 0.999},
    {"temperature": 1.2, "min_p": 0.02},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 2.0, "top_k": 1 << 20},
]


@pytest.mark.parametrize("vocabulary", BOTH)
@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_draws_are_those_over_the_whole_vocabulary(
    vocabulary: sampler.Vocabulary, options: dict[str, float], ties: bool
) -> None:
    logits = torch.randn(40, 6000) * 2
    if ties:
        logits = (logits * 4).round() / 4
    for seed in (1, 2):
        params = SamplingParams(seed=seed, **options)  # type: ignore[arg-type]
        rows = [SampledRow(Request("r", [1, 2], params), i) for i in range(len(logits))]
        tokens, _ = sampler.choose(logits, rows, vocabulary)
        assert tokens == [drawn(x, row) for x, row in zip(logits, rows, strict=True)]


@pytest.mark.parametrize("vocabulary", BOTH)
@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
def test_probabilities(vocabulary: sampler.Vocabulary, options: dict[str, float]) -> None:
    logits = torch.randn(3000) * 3
    params = SamplingParams(**options)  # type: ignore[arg-type]
    probs, ids = sampler.truncate(logits, params, vocabulary)
    spread = torch.zeros(3000)
    spread[torch.arange(3000) if ids is None else ids] = probs
    assert_close(spread, whole(logits, params), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("vocabulary", BOTH)
def test_logits_without_numbers_are_an_error(vocabulary: sampler.Vocabulary) -> None:
    for top_k in (0, 5):
        row = SampledRow(Request("r", [1], SamplingParams(temperature=1.0, top_k=top_k)), 0)
        for bad in (NAN, -INF, INF):
            with pytest.raises(RuntimeError, match="not finite"):
                sampler.choose(torch.full((1, 50), bad), [row], vocabulary)


@needs_native
def test_greedy_penalties_and_logprobs_are_the_same() -> None:
    logits = torch.randn(3, 2000) * 3
    params = SamplingParams(repetition_penalty=1.5, presence_penalty=0.5, logprobs=3)
    rows = [SampledRow(Request("r", logits[i].topk(3).indices.tolist(), params), 0) for i in range(3)]
    op = Sample(3, 2000)
    found = sampler.sample_native(None, op, logits, rows)
    assert found == sampler.sample(op, logits, rows)
    assert found[0] != logits.argmax(-1).tolist()
    assert sampler.sample_native(None, op, logits.double(), rows) is NotImplemented
