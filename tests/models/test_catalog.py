"""The catalogue of architectures: parameter counts against published ones, names, sources."""

from __future__ import annotations

import pytest

from twofold.models.catalog import get_spec, model_names, spec_from_mapping

# Exact totals as the model's safetensors index or model card on huggingface.co gives them (Gemma-3-27B: its
# text part).
EXACT = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-7b-128k": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "gemma-3-270m": 268_098_176,
    "gemma-3-27b": 27_009_346_304,
    "yi-6b-200k": 6_061_035_520,
    "yi-34b-200k": 34_388_917_248,
    "phi-3-mini": 3_821_079_552,
    "phi-3-medium": 13_960_238_080,
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
}

# Rounded counts of the papers: (count, relative tolerance = half a unit of the last digit that is given, at
# least 1 %).
ROUNDED = {
    "llama-13b": (13.0e9, 0.01),  # LLaMA (arXiv:2302.13971), table 2
    "llama-33b": (32.5e9, 0.01),
    "llama-68m": (68e6, 0.01),  # SpecInfer (arXiv:2305.09781)
    "opt-6.7b": (6.7e9, 0.01),  # OPT (arXiv:2205.01068), table 1
    "opt-13b": (13.0e9, 0.02),
    "opt-30b": (30e9, 0.01),
    "opt-66b": (66e9, 0.01),
    "opt-175b": (175e9, 0.01),
    "gpt3-125m": (125e6, 0.01),  # GPT-3 (arXiv:2005.14165), table 2.1
    "gpt3-350m": (350e6, 0.02),
    "gpt3-760m": (760e6, 0.01),
    "gpt3-1.3b": (1.3e9, 0.04),
    "gpt3-2.7b": (2.7e9, 0.02),
    "gpt3-6.7b": (6.7e9, 0.01),
    "gpt3-13b": (13.0e9, 0.01),
    "gpt3-175b": (175e9, 0.01),
    "deepseek-v3": (671e9, 0.001),  # DeepSeek-V3 (arXiv:2412.19437), main model
    "glam-8b-64e": (143e9, 0.01),  # as Duplex (arXiv:2409.01141), table I, gives it
    "grok-1": (314e9, 0.01),  # its repository
    "gpt-oss-120b": (116.83e9, 0.001),  # model card (arXiv:2508.10925), table 1
    "gpt-oss-20b": (20.91e9, 0.001),
}

# Parameters that one token uses, as the names or papers state them.
ACTIVE = {"mixtral-8x7b": 12.9e9, "qwen3-235b-a22b": 22e9, "deepseek-v3": 37e9}


def test_every_model_has_a_published_count_here() -> None:
    assert set(model_names()) == EXACT.keys() | ROUNDED.keys()


@pytest.mark.parametrize(("name", "published"), EXACT.items())
def test_exact_counts(name: str, published: int) -> None:
    assert get_spec(name).num_parameters() == published


@pytest.mark.parametrize(("name", "published"), ROUNDED.items())
def test_rounded_counts(name: str, published: tuple[float, float]) -> None:
    count, tolerance = published
    assert get_spec(name).num_parameters() == pytest.approx(count, rel=tolerance)


@pytest.mark.parametrize(("name", "published"), ACTIVE.items())
def test_active_parameters(name: str, published: float) -> None:
    assert get_spec(name).num_parameters(active_only=True) == pytest.approx(published, rel=0.02)


def test_every_model_names_its_source() -> None:
    assert all(len(get_spec(name).source) > 10 for name in model_names())


def test_latent_cache_is_a_latent_and_a_rotary_key() -> None:
    assert get_spec("deepseek-v3").kv_elements_per_token == 512 + 64


def test_gemma_has_one_global_layer_in_six() -> None:
    spec = get_spec("gemma-3-27b")
    assert sum(spec.is_global(layer) for layer in range(spec.num_layers)) == 10


def test_names_are_found_in_any_case_and_by_alias() -> None:
    assert get_spec("Llama-3.1-8B") is get_spec("llama-3.1-8b")
    assert get_spec("gpt2-small") is get_spec("gpt2-124m")
    assert set(model_names()) < set(model_names(aliases=True))


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown model 'llama-3\.1-8', did you mean|did you mean 'llama-3\.1-8b'"
    ):
        get_spec("llama-3.1-8")


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="'num_heads'"):
        spec_from_mapping("x", {"num_head": 3})


def test_mixtures_in_some_layers() -> None:
    """GLaM has experts in every other layer, DeepSeek-V3 in all but its first, Mixtral in all."""
    glam, deepseek, mixtral = (get_spec(name) for name in ("glam", "deepseek-v3", "mixtral-8x7b"))
    assert [glam.has_experts(i) for i in range(4)] == [False, True, False, True]
    assert [deepseek.has_experts(i) for i in range(5)] == [False, False, False, True, True]
    assert all(mixtral.has_experts(i) for i in range(32))
