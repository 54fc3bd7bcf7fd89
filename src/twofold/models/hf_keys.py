"""Typed access to the keys of a Hugging Face config.json, and the keys that may be left unread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Keys with no part in the mathematics of inference. Dropout and losses are of training; dtypes are those of
# the files.
_HARMLESS = {
    "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "initializer_range", "init_std", "auto_map", "attention_dropout", "attn_pdrop", "embd_pdrop",
    "resid_pdrop", "dropout", "layerdrop", "activation_dropout", "hidden_dropout", "bos_token_id",
    "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "decoder_start_token_id",
    "forced_eos_token_id", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
    "pretraining_tp", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "cache_implementation",
    "task_specific_params", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
    "chunk_size_feed_forward", "output_attentions", "output_hidden_states", "return_dict",
    "return_dict_in_generate", "gradient_checkpointing", "prefix", "n_ctx", "attn_implementation",
    "use_flash_attn", "tokenizer_class", "is_decoder", "unsloth_fixed", "unsloth_version", "torchscript",
    "use_bfloat16", "max_length", "temperature", "top_k", "top_p", "do_sample", "repetition_penalty",
    "transformers.js_config",
}  # fmt: skip

# Values that these keys must have, because another would change the mathematics in a way that is not
# expressed.
_FIXED: dict[str, object] = {
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "use_bidirectional_attention": False,
    "is_encoder_decoder": False,
    "tie_encoder_decoder": False,
    "decoder_sparse_step": 1,
}


class Config:
    """Access to the keys of one config.json; remembers which were read."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
        self.values, self._defaults, self.where = values, defaults, where
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, the family's default where it is left out, else `default`."""
        self._read.add(key)
        return self.values.get(key, self._defaults.get(key, default))

    def _typed(self, key: str, value: Any, kind: str, fits: bool) -> Any:
        if not fits:
            raise ValueError(f"{self.where}: {key} must be {kind}, not {value!r}")
        return value

    def number(self, *keys: str) -> int:
        """A positive integer under the first of `keys` that is present."""
        value = next((v for v in map(self.get, keys) if v is not None), None)
        fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return int(self._typed(keys[0], value, "a positive integer", fits))

    def maybe_number(self, key: str) -> int | None:
        """A positive integer, None where it is left out, null or zero."""
        return self.number(key) if self.get(key) not in (None, 0) else None

    def positive(self, key: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self.get(key, default)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        return float(self._typed(key, value, "a positive number", fits))

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false; null counts as left out."""
        value = self.get(key, default)
        return bool(self._typed(key, value, "true or false", value is None or isinstance(value, bool)))

    def cap(self, key: str) -> float | None:
        """A positive finite number, None where it is left out or null."""
        return None if self.get(key) is None else self.positive(key)

    def items(self, key: str, kind: type) -> list[Any] | None:
        """A list of values of one type, None where it is left out or null."""
        value = self.get(key)
        fits = value is None or (isinstance(value, list) and all(isinstance(v, kind) for v in value))
        found: list[Any] | None = self._typed(key, value, f"a list of {kind.__name__}", fits)
        return found

    def finish(self) -> None:
        """ValueError for keys that nobody read and that may matter."""
        for key, value in self.values.items():
            if key in _FIXED:
                if value is not None and value != _FIXED[key]:
                    raise ValueError(
                        f"{self.where}: {key} = {value!r} is not supported, only {_FIXED[key]!r}"
                    )
            elif (
                key not in self._read | _HARMLESS
                and not key.startswith("_")
                and value not in (None, False, [], {})
            ):
                raise ValueError(
                    f"{self.where}: {key} = {value!r} is unknown and may change the model; refusing to "
                    "ignore it (take the key out of config.json if it does not matter)"
                )
