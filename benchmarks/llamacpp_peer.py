"""llama.cpp as a measured peer: a process that answers one timing request per line of JSON.

`cpu_vs_llamacpp.py` starts it with the interpreter that has llama-cpp-python, so that its threads and ours
never share a process. Only `llama_decode` is timed, as llama-bench does it: logits for the last token of a
prompt and for each decoded token, no sampling, token ids that are given. Imports nothing but llama_cpp.

Requests, each answered by one line (`{"error": …}` where it fails):

    {"do": "load", "model": PATH, "threads": N}                    -> {"system": …, "version": …, "vocab": …}
    {"do": "open", "tokens": N, "sequences": N, "flash": true}     -> {"context": ID}
    {"do": "prompt", "context": ID, "ids": […]}                    -> {"seconds": …}   forgets what was there
    {"do": "keep", "context": ID}                                  -> {"bytes": …}     state for `decode`
    {"do": "decode", "context": ID, "ids": […], "sequences": N}    -> {"seconds": …}   one step per id
    {"do": "close", "context": ID}                                 -> {}
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp as lib

BATCH = 2048
UBATCH = 512
"""Tokens per call and per computed piece: llama-bench's defaults."""


@dataclass(slots=True)
class Context:
    """A llama.cpp context, the number of its cached tokens per sequence, and a state to return to."""

    handle: Any
    length: int = 0
    kept: ctypes.Array[ctypes.c_uint8] | None = None
    kept_length: int = 0


class Peer:
    """One model and its contexts."""

    def __init__(self) -> None:
        self.model: Any = None
        self.threads = 1
        self.contexts: dict[int, Context] = {}
        self.opened = 0
        self._quiet = lib.llama_log_callback(lambda level, text, data: None)  # kept: C holds the pointer
        if "LLAMACPP_PEER_LOG" not in os.environ:
            lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()

    def load(self, model: str, threads: int) -> dict[str, Any]:
        """Map `model`, on the processor alone, weights repacked where llama.cpp can (its default)."""
        if self.model is not None:
            for number in list(self.contexts):
                self.close(number)
            lib.llama_model_free(self.model)
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(os.fsencode(Path(model)), params)
        if not self.model:
            raise ValueError(f"llama.cpp cannot load {model}")
        self.threads = threads
        return {
            "system": lib.llama_print_system_info().decode().strip(" |"),
            "version": lib.__version__,
            "vocab": lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model)),
        }

    def open(self, tokens: int, sequences: int, flash: bool) -> dict[str, Any]:
        """A context of `tokens` per sequence, keys and values in fp16 (llama.cpp's default)."""
        params = lib.llama_context_default_params()
        params.n_ctx = tokens * sequences
        params.n_batch, params.n_ubatch = BATCH, UBATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = 1 if flash else 0
        params.swa_full = False  # as llama-bench: sliding-window layers keep no more than their window
        handle = lib.llama_init_from_model(self.model, params)
        if not handle:
            raise ValueError(f"llama.cpp cannot open a context of {tokens} tokens x {sequences}")
        number = self.opened = self.opened + 1
        self.contexts[number] = Context(handle)
        return {"context": number}

    def close(self, context: int) -> dict[str, Any]:
        """Free a context."""
        lib.llama_free(self.contexts.pop(context).handle)
        return {}

    def prompt(self, context: int, ids: list[int]) -> dict[str, Any]:
        """Seconds to compute `ids` in sequence 0 of an empty cache."""
        its = self.contexts[context]
        lib.llama_memory_clear(lib.llama_get_memory(its.handle), False)
        tokens = (lib.llama_token * len(ids))(*ids)
        start = time.perf_counter()
        for first in range(0, len(ids), BATCH):
            piece = ctypes.cast(ctypes.byref(tokens, first * 4), ctypes.POINTER(lib.llama_token))
            _check(lib.llama_decode(its.handle, lib.llama_batch_get_one(piece, min(BATCH, len(ids) - first))))
        lib.llama_synchronize(its.handle)
        seconds = time.perf_counter() - start
        its.length = len(ids)
        return {"seconds": seconds}

    def keep(self, context: int) -> dict[str, Any]:
        """Remember sequence 0 as it is now; every `decode` starts from it."""
        its = self.contexts[context]
        size = lib.llama_state_seq_get_size(its.handle, 0)
        its.kept = (ctypes.c_uint8 * size)()
        if lib.llama_state_seq_get_data(its.handle, its.kept, size, 0) != size:
            raise ValueError("llama.cpp gave less state than it said")
        its.kept_length = its.length
        return {"bytes": size}

    def decode(self, context: int, ids: list[int], sequences: int = 1) -> dict[str, Any]:
        """Seconds for len(ids) steps, each of one token in each of `sequences`, behind the kept state (which
        every sequence gets) or an empty cache."""
        its = self.contexts[context]
        lib.llama_memory_clear(lib.llama_get_memory(its.handle), False)
        if its.kept is not None:
            for sequence in range(sequences):
                if not lib.llama_state_seq_set_data(its.handle, its.kept, len(its.kept), sequence):
                    raise ValueError("llama.cpp does not take its own state back")
        batch = lib.llama_batch_init(sequences, 0, 1)
        batch.n_tokens = sequences
        for sequence in range(sequences):
            batch.n_seq_id[sequence] = 1
            batch.seq_id[sequence][0] = sequence
            batch.logits[sequence] = 1
        start = time.perf_counter()
        for step, token in enumerate(ids):
            for sequence in range(sequences):
                batch.token[sequence] = token
                batch.pos[sequence] = its.kept_length + step
            _check(lib.llama_decode(its.handle, batch))
            lib.llama_synchronize(its.handle)
        seconds = time.perf_counter() - start
        lib.llama_batch_free(batch)
        return {"seconds": seconds}


def _check(code: int) -> None:
    if code:
        raise ValueError(f"llama_decode failed with {code}")


def main() -> None:
    """Answer requests until the input ends."""
    # llama.cpp may print; answers go to a copy of the original output, prints to the error stream.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request)
        except Exception as error:  # every fault belongs to the one who asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
