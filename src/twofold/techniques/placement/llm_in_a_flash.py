"""LLM in a flash: the neurons of the MLPs lie on disk; a step reads those that it needs and that no recent
step needed, and computes with the active ones alone.

Source: Alizadeh et al., "LLM in a flash: Efficient Large Language Model Inference with Limited Memory",
arXiv:2312.11514. Windowing (neurons of the newest tokens stay in memory) and row-column bundling (a neuron's
up row and down column are read at once) are the paper's. Differences: the paper predicts active neurons of
ReLU models by trained low-rank networks; here the gate of a gated MLP stays in memory and says it exactly,
where SiLU has no exact zeros a threshold per layer takes their place (a quantile over prose), and a plain
MLP's predictor is the truncated singular value decomposition of its up projection. Neurons are stored in 16
bits: where a checkpoint has 4, the windows take as much memory as what they stand for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch

from twofold.kernels.reference.elementwise import activation
from twofold.models.mlp import MLPBlock
from twofold.models.packed import PackedMatrix
from twofold.models.spec import ModelSpec
from twofold.models.weights import DenseMatrix, Matrix
from twofold.ops.formats import F32
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.placement.flash_mlp import Expected, FlashMLP, flash_mlp
from twofold.techniques.placement.flash_ops import STORED_BYTES
from twofold.techniques.placement.neuron_store import NeuronStore

if TYPE_CHECKING:
    from twofold.devices.base import Device
    from twofold.models.transformer import Transformer, TransformerLayer


class NeuronWindows:
    """Puts the neurons of every dense MLP on disk. thresholds: of each layer, learned on a real device.

    counters: layers_on_disk; steps and tokens that went through such an MLP; neurons_used by a token and
    neurons_read from the disk; the same of steps of one token (single_steps, single_read).
    """

    def __init__(self, technique: LlmInAFlash) -> None:
        self.technique = technique
        self.counters = dict.fromkeys(
            (
                "layers_on_disk",
                "steps",
                "tokens",
                "neurons_used",
                "neurons_read",
                "single_steps",
                "single_read",
            ),
            0,
        )
        self._window_bytes = 0
        self._blocks: list[FlashMLP] = []
        self._expected = Expected(technique.active, 1.0)
        self._neurons = 0

    def expect(self, behaviour: Mapping[str, float]) -> None:
        """What a modelled device is charged for."""
        self._expected.active, self._expected.loaded = (
            behaviour["neurons_active"],
            behaviour["neurons_loaded"],
        )

    def measured(self) -> dict[str, float]:
        """Shares of all neurons: used by a token, read by a step of one token."""
        c, all_of = self.counters, max(1, self._neurons)
        if not c["tokens"]:
            return {}
        found = {"neurons_active": c["neurons_used"] / (c["tokens"] * all_of)}
        if c["single_steps"]:
            found["neurons_loaded"] = c["single_read"] / (c["single_steps"] * all_of)
        return found

    def place(self, layer: TransformerLayer, num_layers: int, *, real: bool) -> None:
        """See `models.placement.Placement`."""
        block, given = layer.mlp, self.technique
        if not isinstance(block, MLPBlock):
            return
        spec = block.spec
        self._neurons = block.down.in_features
        up_rows, down_rows = None, None
        if real:
            fused, down = block.gate_up.widen(torch.float32), block.down.widen(torch.float32)
            up_rows, down_rows = fused[-self._neurons :], down.T
        resident = (
            [_leading_rows(block.gate_up, self._neurons)]
            if spec.gated
            else _factors(block, given.rank, up_rows)
        )
        flash = flash_mlp(block, resident, spec, block.precision)
        most = max(1, round(given.window_share * self._neurons))
        flash.expected, flash.counters = self._expected, self.counters
        self._window_bytes += 2 * most * spec.hidden * STORED_BYTES
        self.counters["layers_on_disk"] += 1
        if up_rows is not None and down_rows is not None:
            flash.threshold = given.thresholds[layer.index]
            flash.store = NeuronStore(up_rows, down_rows, most=most, tokens=given.window)
        self._blocks.append(flash)
        layer.mlp = flash

    def finish(self) -> None:
        """See `models.placement.Placement`."""

    def staging_bytes(self) -> int:
        """The windows of all layers."""
        return self._window_bytes

    def allocated(self) -> int:
        """See `models.placement.Placement`."""
        windows = [block.store.window for block in self._blocks if block.store is not None]
        return sum(w.numel() * w.element_size() for w in windows)


def _leading_rows(matrix: Matrix, count: int) -> Matrix:
    """The first `count` rows of `matrix` in memory of their own."""
    if isinstance(matrix, PackedMatrix):
        part = matrix.part(0, count)
        packed = part.tensors.get("packed")
        return PackedMatrix(
            part.segments, part.in_features, None if packed is None else packed.clone(), exact=matrix.exact
        )
    tensors = {name: t[:count].clone() for name, t in matrix.tensors.items()}
    assert not tensors or isinstance(matrix, DenseMatrix), type(matrix)
    return DenseMatrix(matrix.format, count, matrix.in_features, tensors)


def _factors(block: MLPBlock, rank: int, up: torch.Tensor | None) -> list[Matrix]:
    """Two matrices whose product approximates the up projection [neurons, hidden]."""
    neurons, hidden = block.down.in_features, block.gate_up.in_features
    rank = min(rank, neurons, hidden)
    if up is None:
        return [DenseMatrix(F32, rank, hidden, {}), DenseMatrix(F32, neurons, rank, {})]
    u, s, v = torch.linalg.svd(up, full_matrices=False)
    first, second = v[:rank].contiguous(), (u[:, :rank] * s[:rank]).contiguous()
    return [
        DenseMatrix(F32, rank, hidden, {"weight": first}),
        DenseMatrix(F32, neurons, rank, {"weight": second}),
    ]


_NAIVE = "loading all weights from flash for every token"


@dataclass(frozen=True)
class LlmInAFlash(Technique):
    """active: share of an MLP's neurons that a token uses, on average over prose (the paper's models have 3
    to 5 % by themselves). window: newest steps whose neurons stay in memory. window_share: room of the
    window, as a share of all neurons. rank: of the predictor of a plain MLP. thresholds: above which
    magnitude a neuron is active, by layer (learned)."""

    active: float = 0.3
    window: int = 5
    window_share: float = 0.5
    rank: int = 128
    thresholds: tuple[float, ...] = ()

    info: ClassVar[Info] = Info(
        name="llm-in-a-flash",
        title="LLM in a flash: Efficient Large Language Model Inference with Limited Memory",
        source="arXiv:2312.11514",
        summary="keeps MLP neurons on disk and reads those that are active and were not so lately",
        seams=("placement",),
        lossless=False,
        provides=("placement",),
        excludes=("placement", "weight-format"),
        reasons={
            "placement": "weights lie in one place; name one technique that says where",
            "weight-format": "neurons are stored one by one in 16 bits; leave the weight format out, or "
            "offload whole layers with flexgen-offload",
        },
        behaviour={
            "neurons_active": (0.3, "the share that thresholds are set for"),
            "neurons_loaded": (
                0.14,
                "measured on SmolLM2-135M with windows of five tokens and 30 % of the neurons active",
            ),
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "llm-in-a-flash-gpu",
            "speed over naive loading, on a GPU",
            (20.0, 25.0),
            "x",
            _NAIVE,
            "OPT-6.7B",
            "NVIDIA RTX 4090",
            "abstract",
            "speed_on_gpu",
        ),
        Claim(
            "llm-in-a-flash-cpu",
            "speed over naive loading, on a CPU",
            (4.0, 5.0),
            "x",
            _NAIVE,
            "OPT-6.7B",
            "Apple M1 Max",
            "abstract",
            why_not="its laptop, an Apple M1 Max, is not in the catalogue: what its processor and its disk "
            "reach is not published by the vendor",
        ),
        Claim(
            "llm-in-a-flash-memory",
            "size of the model over the memory that it runs in (up to)",
            (2.0, 2.0),
            "x",
            "all weights in memory",
            "OPT-6.7B",
            "any",
            "abstract",
            "memory",
        ),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        for name in ("active", "window_share"):
            value = getattr(self, name)
            if not 0.0 < value <= 1.0:
                raise ValueError(f"{where}: {name} is a share above 0 and up to 1, not {value}")
        for name in ("window", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{where}: {name} must be at least 1, not {getattr(self, name)}")

    def check(self, spec: ModelSpec) -> None:
        """Experts have no neurons of their own on disk."""
        if spec.experts is not None:
            raise ValueError(
                f"technique {self.info.name}: {spec.name} has experts, of which a token uses few anyway; use "
                "flexgen-offload for it"
            )

    @property
    def needs_calibration(self) -> bool:
        """Thresholds are learned."""
        return not self.thresholds

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """With the threshold of every layer above which the share `active` of the neurons lies."""
        from twofold.techniques.weights.inputs import learn_matrices

        found = [0.0] * model.spec.num_layers

        def learn(key: str, matrix: Matrix, seen: Inputs) -> None:
            _, layer, name = key.split(".", 2)
            if name == "gate_up":
                found[int(layer)] = self._threshold(model.spec, matrix, torch.cat(seen.rows))

        learn_matrices(model, device, token_ids, lambda _: Inputs(), learn)
        return dataclasses.replace(self, thresholds=tuple(found))

    def _threshold(self, spec: ModelSpec, matrix: Matrix, x: torch.Tensor) -> float:
        neurons = matrix.out_features // (2 if spec.gated else 1)
        rows = matrix.widen(torch.float32)[:neurons]
        if spec.gated:
            scores = activation(x @ rows.T, spec.activation, gated=False).abs()
        else:
            u, s, v = torch.linalg.svd(rows, full_matrices=False)
            rank = min(self.rank, len(s))
            scores = x @ v[:rank].T @ (u[:, :rank] * s[:rank]).T
        return float(scores.flatten().kthvalue(max(1, round((1.0 - self.active) * scores.numel()))).values)

    def placement(self) -> NeuronWindows:
        """Neurons on disk, behind windows."""
        return NeuronWindows(self)


class Inputs:
    """Keeps the inputs of a matrix: rows, one tensor [tokens, in_features] per chunk."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def add(self, x: torch.Tensor) -> None:
        """Take in `x` [tokens, in_features]."""
        self.rows.append(x)
