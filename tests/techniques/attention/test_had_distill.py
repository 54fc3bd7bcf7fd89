"""Distillation of attention over signs: its stages, and that it is worth something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import VOCAB, tiny_checkpoint, tiny_engine

from twofold.devices.torch_device import TorchDevice
from twofold.jobs.distill import distill_model
from twofold.models.cache import Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.attention.had_distill import Lessons, distil, sharpness
from twofold.techniques.attention.had_file import save_codes
from twofold.techniques.attention.had_layout import TopN
from twofold.techniques.attention.had_student import StudentHeads, TaughtLayer, keep_nearest, soften
from twofold.techniques.attention.hamming import attend_signs


def test_tanh_becomes_the_sign() -> None:
    x = torch.linspace(-3, 3, 61)
    assert torch.allclose(soften(x, 5.0), x, atol=0.4)
    assert torch.allclose(soften(x, 1.0), torch.tanh(x))
    sign = torch.where(x >= 0, 1.0, -1.0)
    assert (soften(x, 0.05) - sign)[x.abs() > 0.15].abs().max() < 0.01
    assert torch.equal(soften(x, 0.0), sign)
    assert [round(sharpness(p), 3) for p in (0.0, 1 / 3, 0.666, 0.7, 1.0)] == [5.0, 1.0, 0.05, 0.0, 0.0]


def test_the_sign_has_the_gradient_of_what_is_small() -> None:
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0], requires_grad=True)
    torch.autograd.backward(soften(x, 0.0).sum())
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("window", [None, 9])
def test_a_student_attends_as_the_technique_does(window: int | None) -> None:
    """What is trained is what runs."""
    torch.manual_seed(0)
    heads, top = Heads(4, 2, 16, 16, 0.3, None, window, "fp32", 4), TopN(5, 12)
    q, k, v = (torch.randn(30, n, 16) for n in (4, 2, 2))
    layer = TaughtLayer(heads, 16, top)
    student = layer.student = StudentHeads(heads, torch.full((4,), 1.3), torch.full((2,), 0.7))
    with torch.no_grad():
        for parameter in (*student.maps, *student.rest):
            parameter += torch.randn_like(parameter) * 0.3
        step = StepInput([Span(30, 30)], 30, 0)
        got = layer.attend(TorchDevice("cpu"), step, q, k, v)
    codes = student.codes()
    want = attend_signs(codes.q.codes(q), codes.k.codes(k), v, heads, codes.scale, top)
    assert got is not None
    assert torch.allclose(got, want, atol=1e-4)


def test_of_equals_the_newer_is_kept() -> None:
    scores = torch.tensor([[[1.0, -9.0, -9.0], [1.0, 1.0, -9.0], [1.0, 1.0, 1.0]]])
    kept = keep_nearest(scores, TopN(1, 1000), None)[0] > -100
    assert kept.tolist() == [[True, False, False], [False, True, False], [False, False, True]]


def test_distillation_improves_on_plain_signs(tmp_path: Path) -> None:
    checkpoint, top = tiny_checkpoint(), TopN(8, 16)
    generator = torch.Generator().manual_seed(3)
    texts = torch.randint(3, VOCAB, (8, 32), generator=generator)
    found = distil(checkpoint, texts[:6], texts[6:], top, Lessons(steps=60, tuning=6))
    assert found.after < 0.9 * found.before
    path = tmp_path / "heads.safetensors"
    save_codes(path, found.codes, {})
    ids = texts[7].tolist()
    plain = tiny_engine().score(ids, 1).log_softmax(-1)

    def divergence(**params: object) -> float:
        use = {"name": "had", "params": {"n": 8, "context": 16, **params}}
        ours = tiny_engine(techniques=[use]).score(ids, 1).log_softmax(-1)
        return float((plain.exp() * (plain - ours)).sum(-1).mean())

    assert divergence(distilled=str(path)) < divergence()


@pytest.mark.model
def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        distill_model("smollm2-135m", tmp_path / "no" / "out", Lessons(), TopN(30, 256), windows=1, window=16)
