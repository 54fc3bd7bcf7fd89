"""All techniques by name, imported when asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from twofold.errors import nearest
from twofold.techniques.base import Technique

# name -> module:class. One line per technique; its seam's folder says where it lives.
_WHERE = {
    "aggressive-decoding": "decoding.aggressive_decoding:AggressiveDecoding",
    "alisa": "cache.alisa:Alisa",
    "bfp-outlier-reorder": "cache.bfp_outlier_reorder:BfpOutlierReorder",
    "bipolar-int": "weights.bipolar_int:BipolarInt",
    "copyspec": "decoding.copyspec:CopySpec",
    "elastic-cache": "cache.elastic_cache:ElasticCache",
    "fastswitch": "scheduling.fastswitch:FastSwitch",
    "flashattention": "attention.flashattention:FlashAttention",
    "flashattention-2": "attention.flashattention_2:FlashAttention2",
    "flexgen-offload": "placement.flexgen_offload:FlexGenOffload",
    "gemfilter": "attention.gemfilter:GemFilter",
    "gptq": "weights.gptq:Gptq",
    "h2o": "cache.h2o:H2o",
    "had": "attention.had:Had",
    "int-vs-fp": "weights.int_vs_fp:IntVsFp",
    "kivi": "cache.kivi:Kivi",
    "lean-attention": "attention.lean_attention:Lean",
    "llm-drop": "layers.llm_drop:LlmDrop",
    "llm-in-a-flash": "placement.llm_in_a_flash:LlmInAFlash",
    "llumnix": "scheduling.llumnix:Llumnix",
    "lut-gemm": "weights.lut_gemm:LutGemm",
    "minference": "attention.minference:MInference",
    "olive": "weights.olive:Olive",
    "on-die-ecc": "weights.on_die_ecc:OnDieEcc",
    "retrievalattention": "attention.retrievalattention:RetrievalAttention",
    "sarathi": "scheduling.sarathi:Sarathi",
    "smoothquant": "weights.smoothquant:SmoothQuant",
    "snapkv": "cache.snapkv:SnapKv",
    "sparf": "attention.sparf:Sparf",
    "spatten": "attention.spatten:Spatten",
    "splitwise": "scheduling.splitwise:Splitwise",
    "streaming-llm": "cache.streaming_llm:StreamingLlm",
    "triforce": "decoding.triforce:TriForce",
    "tvw-sparsity": "weights.tvw_sparsity:TvwSparsity",
    "two-model-speculation": "decoding.two_model_speculation:TwoModelSpeculation",
    "two-pass-softmax": "attention.two_pass_softmax:TwoPassSoftmax",
    "vattention": "placement.vattention:VAttention",
    "vtensor": "placement.vtensor:VTensor",
    "wanda": "weights.wanda:Wanda",
    "zipvl": "cache.zipvl:ZipVL",
}


def technique_names() -> list[str]:
    """All technique names, sorted."""
    return sorted(_WHERE)


@cache
def technique_class(name: str) -> type[Technique]:
    """The class of the technique called `name`; ValueError with the nearest name where there is none."""
    if name not in _WHERE:
        raise ValueError(f"unknown technique {name!r}; {nearest(name, _WHERE)}")
    module, _, attribute = _WHERE[name].partition(":")
    found: type[Technique] = getattr(import_module(f"twofold.techniques.{module}"), attribute)
    return found


def make_technique(name: str, params: dict[str, Any] | None = None) -> Technique:
    """The technique called `name` with `params`, validated."""
    return technique_class(name).from_params(params or {})
