"""Prints what GenZ counts, as JSON: run by an interpreter that has `genz-llm` (see
`requirements_vs_genz.py`).

Standard input holds a list of cases {model, phase, batch, tokens, tp}; standard output a list of figures per
rank: products (FLOP of matrix products with layers' weights), attention (FLOP), head (FLOP of the vocabulary
projection), weights (of the layers) and cache (bytes read), messages (collectives in the layers and at the
end). Its embedding look-up, counted there as a dense product, and its activations are left out.
"""

import contextlib
import io
import json
import sys
import warnings

warnings.filterwarnings("ignore")
from GenZ import decode_moddeling, prefill_moddeling  # noqa: E402

MB = 1 << 20


def count(case):
    """The figures of one case."""
    common = {
        "model": case["model"],
        "batch_size": case["batch"],
        "system_name": {
            "Flops": 1000,
            "Memory_size": 10**6,
            "Memory_BW": 3000,
            "ICN": 400,
            "real_values": True,
        },
        "bits": "bf16",
        "model_profilling": True,
        "tensor_parallel": case["tp"],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        if case["phase"] == "prefill":
            table, _ = prefill_moddeling(input_tokens=case["tokens"], **common)
        else:
            table, _ = decode_moddeling(input_tokens=case["tokens"], output_tokens=0, Bb=1, **common)
    found = dict.fromkeys(("products", "attention", "head", "weights", "cache", "messages"), 0.0)
    repeat = 1
    for row in table.to_dict("records"):
        name, kind = row["Layer Name"], row["Op Type"]
        if kind == "Repeat":
            repeat = int(row["Dimension"])
        elif kind == "EndRepeat":
            repeat = 1
        elif kind == "Sync":
            found["messages"] += repeat if name != "classifier_AG" else 0
        elif kind in ("Logit", "Attend", "Logit_BM_PREFILL", "Attend_BM_PREFILL"):
            found["attention"] += 2e6 * row["Num ops (MFLOP)"] * repeat
            found["cache"] += row["Input_w (MB)"] * MB * repeat
        elif name != "embeddings":
            part = "head" if name == "classifier" else "products"
            found[part] += 2e6 * row["Num ops (MFLOP)"] * repeat
            found["weights"] += row["Input_w (MB)"] * MB * repeat if part == "products" else 0.0
    return found


if __name__ == "__main__":
    json.dump([count(case) for case in json.load(sys.stdin)], sys.stdout)
