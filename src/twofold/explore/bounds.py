"""What no deployment of a device can beat, from its datasheet alone: candidates that cannot meet a limit, or
cannot be better than one that was estimated already, are discarded before anything is built.

Every bound is optimistic: a decode step reads the weights that every token multiplies once, from the fastest
memory that can hold them; a request computes 2 FLOP per weight and token at the highest rate that the device
names; nothing else takes time. (Williams, Waterman, Patterson, "Roofline", CACM 2009.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twofold.devices.catalog import get_device
from twofold.devices.cluster import Cluster
from twofold.devices.precision import NATIVE
from twofold.devices.registry import is_machine, is_real
from twofold.devices.schema import DeviceFile
from twofold.engine.active import Active, activate, the_one
from twofold.engine.build import make_techniques
from twofold.explore.load import Shape
from twofold.explore.plan import Exploration
from twofold.explore.space import Candidate, Deployment, Layout, Setting, Space
from twofold.models.parallel import Parallel
from twofold.models.spec import ModelSpec
from twofold.models.weights import ACT_BYTES
from twofold.ops.base import Precision

LEAST_BYTES = {"dense": None, "fp8": 1.0, "int8wo": 1.0}
"""Bytes per weight at least, by the plan's format of weights: None are the activations'; others have at least
4 bits."""
_WIDE = 4096


@dataclass(frozen=True, slots=True)
class Floor:
    """What a candidate cannot go below, and the throughput that it cannot exceed."""

    ttft: float
    tpot: float
    e2e: float
    joules: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one set of techniques leaves of a model, at least. weights, experts: parameters of the layers,
    those of routed experts apart; active: parameters that every token multiplies in the layers; head: of the
    vocabulary projection; bytes: per parameter (None: as the activations); prompt: tokens of a prompt that
    the model goes on with; yielded: tokens per decode."""

    weights: float
    experts: float
    active: float
    head: float
    cache: float
    bytes: float | None
    prompt: int
    yielded: float


def footprint(spec: ModelSpec, actives: Sequence[Active], prompt: int) -> Footprint:
    """The footprint of `spec` with those techniques on."""
    selection = the_one([a.selection for a in actives])
    scheme = the_one([a.weights for a in actives])
    drafter = the_one([a.modelled_drafter for a in actives])
    keep = the_one([a.prompt_filter for a in actives])
    dense = routed = active = cache = 0.0
    stored = the_one([a.cache for a in actives]) is None and spec.window is None
    for layer in range(spec.num_layers):
        if selection is None or selection.keeps_attention(layer, spec.num_layers):
            projected = spec.hidden * 2 * spec.q_dim if spec.latent is None else 0
            dense += projected
            active += projected
            cache += spec.kv_elements_per_token if stored else 0
        if selection is None or selection.keeps_mlp(layer, spec.num_layers):
            matrices = 3 if spec.gated else 2
            if spec.has_experts(layer) and spec.experts is not None:
                one = matrices * spec.hidden * spec.experts.hidden
                routed += spec.experts.num * one
                active += spec.experts.active * one
            else:
                dense += matrices * spec.hidden * spec.ffn_hidden
                active += matrices * spec.hidden * spec.ffn_hidden
    per_weight = None if scheme is None else scheme.pack(None, _WIDE, _WIDE).nbytes / _WIDE**2
    return Footprint(
        dense,
        routed,
        active,
        float(spec.vocab_size * spec.hidden),
        cache,
        per_weight,
        prompt if keep is None else keep.kept(prompt),
        1.0 if drafter is None else 1.0 + drafter.rate * drafter.accepted,
    )


class Bounds:
    """Bounds of every candidate of `space`. stored: whether weights may lie in the formats of a checkpoint,
    of which nothing is assumed."""

    def __init__(
        self, exploration: Exploration, space: Space, spec: ModelSpec, shape: Shape, *, stored: bool
    ) -> None:
        self.plan, self.explore = exploration
        self.space, self.spec, self.shape, self.stored = space, spec, shape, stored
        self._prints: dict[int, Footprint | str] = {}
        self._files: dict[str, DeviceFile | None] = {}
        self._layouts: dict[tuple[str, Layout], str] = {}

    def price(self, deployment: Deployment) -> float | None:
        """USD per hour of all devices; None where one is known neither from the plan nor from the device
        file."""
        total = 0.0
        for device in self.space.instances(deployment):
            each = self.explore.prices.get(device)
            file = self.file(device)
            if each is None and file is not None and file.price is not None:
                each = None if file.price.per_hour is None else file.price.per_hour.value
            if each is None:
                return None
            total += each * deployment.layout.devices
        return total

    def file(self, device: str) -> DeviceFile | None:
        """The device's file; None for a machine that is described otherwise, which has no bounds."""
        if device not in self._files:
            self._files[device] = None if is_machine(device) or is_real(device) else get_device(device)
        return self._files[device]

    def footprint(self, deployment: Deployment) -> Footprint | str:
        """What the deployment's techniques leave of the model, or why they cannot be on."""
        key = deployment.techniques
        if key not in self._prints:
            try:
                techniques = make_techniques(
                    self.plan.with_techniques(self.space.uses(deployment)), self.spec
                )
                recorded = self.space.recorded(deployment)
                actives = [
                    activate(t, real=False, overrides=self.plan.behaviour, recorded=recorded)
                    for t in techniques
                ]
                self._prints[key] = footprint(self.spec, actives, self.shape.prompt)
            except ValueError as error:
                self._prints[key] = str(error)
        return self._prints[key]

    def refusal(self, deployment: Deployment) -> tuple[str, str]:
        """(constraint, reason) where no setting of the deployment can work; ("", "") where nothing speaks
        against it."""
        found = self.footprint(deployment)
        if isinstance(found, str):
            return "techniques", found
        if reason := self._layout(deployment):
            return "layout", reason
        instances = self.space.instances(deployment)
        if len(instances) > 1 and deployment.layout.dp > 1:
            return "layout", "a technique over several instances says itself how many there are: dp is 1"
        budget = self.explore.budget
        price = self.price(deployment)
        needed = "cost" in self.explore.objectives or budget.price_per_hour is not None
        if price is None and needed:
            names = " or ".join(sorted(set(instances)))
            return "price unknown", f"the file of {names} names no price; give it in explore.prices"
        if price is not None and budget.price_per_hour is not None and price > budget.price_per_hour:
            return "price budget", f"{price:.2f} USD per hour are above {budget.price_per_hour:.2f}"
        files = [known for device in instances if (known := self.file(device)) is not None]
        watts = sum(known.power.limit.value for known in files) * deployment.layout.devices
        if budget.watts is not None and watts > budget.watts:
            return "power budget", f"{watts:.0f} W are above {budget.watts:.0f} W"
        file = self.file(deployment.device)
        if file is None:
            return "", ""
        least = self._weight_bytes(deployment, found, file)
        if least > (room := self.plan.engine.memory or file.memory.capacity.value):
            return "memory", f"weights take at least {least / 1e9:.1f} GB of {room / 1e9:.1f} GB"
        return "", ""

    def floor(self, candidate: Candidate) -> Floor | None:
        """The candidate's bounds; None where the device has none: a machine of its own, or one that was
        measured kernel by kernel, whose rates are no peaks. Several instances, whose devices may differ, have
        none either."""
        deployment, setting = candidate.deployment, candidate.setting
        file, found = self.file(deployment.device), self.footprint(deployment)
        if file is None or file.curves is not None or isinstance(found, str):
            return None
        if len(self.space.instances(deployment)) > 1:
            return None
        cut, shape = deployment.layout, self.shape
        peak = _peak(file)
        weights = (found.active + found.head) * self._bytes(deployment, found, file) / cut.tp
        cache = found.cache * self._cache_bytes(deployment, file) * found.prompt / cut.tp
        bandwidth = _bandwidth(file, self._weight_bytes(deployment, found, file))
        tpot = (weights + cache) / bandwidth / found.yielded
        prefill = 2.0 * found.active * found.prompt / (cut.tp * cut.pp * peak)
        tokens = found.prompt + shape.output - 1
        most = shape.output * cut.devices * peak / (2.0 * found.active * tokens)
        inside = self._at_once(setting)
        if inside is not None and tpot:
            shared = (weights * cut.dp / max(cut.dp, inside) + cache) / bandwidth / found.yielded
            most = min(most, cut.dp / shared)
        joules = 0.0
        if inside is not None:
            per_replica = max(1.0, inside / cut.dp)
            share = (shape.output - 1) / shape.output
            joules = file.power.idle.value * cut.tp * tpot / per_replica * share
        return Floor(prefill, tpot, prefill + (shape.output - 1) * tpot, joules, most)

    # --- parts ---

    def _layout(self, deployment: Deployment) -> str:
        key = (deployment.device, deployment.layout)
        if key not in self._layouts:
            cut = deployment.layout
            try:
                Parallel(cut.tp, cut.pp, cut.dp, cut.ep).check(self.spec)
                file = self.file(deployment.device)
                if file is not None:
                    Cluster(file, cut.tp, cut.pp, cut.dp, cut.ep)
                elif cut.devices > 1:
                    raise ValueError(f"{deployment.device} is a single machine")
                self._layouts[key] = ""
            except ValueError as error:
                self._layouts[key] = str(error)
        return self._layouts[key]

    def _at_once(self, setting: Setting) -> float | None:
        """Most requests that are ever in the deployment; None where nothing limits them."""
        if setting.rate is not None or (setting.concurrency is None and self.shape.rate is not None):
            return None
        return float(setting.concurrency or 1)

    def _bytes(self, deployment: Deployment, found: Footprint, file: DeviceFile) -> float:
        """Bytes per weight, at least."""
        if deployment.weights == "stored" or (deployment.weights == "auto" and self.stored):
            return 0.0
        if found.bytes is not None:
            return found.bytes
        least = LEAST_BYTES.get(deployment.weights, None if deployment.weights == "auto" else 0.5)
        if least is not None:
            return least
        return self._activation_bytes(deployment, file)

    def _cache_bytes(self, deployment: Deployment, file: DeviceFile) -> float:
        """Bytes per cached element, at least; 0 where a format is asked for or the device chooses one."""
        if deployment.cache_format != "auto" or file.cache_format is not None:
            return 0.0
        return float(self._activation_bytes(deployment, file))

    @staticmethod
    def _activation_bytes(deployment: Deployment, file: DeviceFile) -> int:
        native: Precision = next((p for p in NATIVE if p in file.matmul), "fp32")
        asked = deployment.precision
        return ACT_BYTES[native if asked == "auto" else asked]  # type: ignore[index]

    def _weight_bytes(self, deployment: Deployment, found: Footprint, file: DeviceFile) -> float:
        """Bytes of the layers' weights on a device, at least."""
        cut = deployment.layout
        parameters = found.weights / (cut.tp * cut.pp) + found.experts / (max(cut.tp, cut.ep) * cut.pp)
        return parameters * self._bytes(deployment, found, file)


def _bandwidth(file: DeviceFile, weights: float) -> float:
    """Bytes/s of the fastest memory that can hold the weights."""
    fastest = file.memory.bandwidth.value
    cache = file.cache
    if cache is not None and cache.bandwidth is not None and weights <= cache.capacity.value:
        return max(fastest, cache.bandwidth.value)
    return fastest


def _peak(file: DeviceFile) -> float:
    """The highest FLOP/s that the file names, in any precision."""
    return max([figure.value for figure in file.matmul.values()] + [file.vector.value])
