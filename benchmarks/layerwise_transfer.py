"""Splitwise over two processes: caches that go layer by layer beside their prompts, against caches that go
once the prompt is done.

    python benchmarks/layerwise_transfer.py [--model NAME] [--prompt N] [--rounds R] [--json]

Both pairs of processes are up all the time and take turns, one prompt at a time. Reported are medians: of the
time from a prompt's first token to the second, which is the other instance's; of the time for which the
request stood still (see `downtime_us`); and of the time to the first token, which pays for the copies beside
it. Then the bytes sent, and the share of them that had arrived when the prompt's last step ended.
"""

from __future__ import annotations

import argparse
import json
import random
from statistics import median
from typing import Any

from twofold.engine.request import SamplingParams
from twofold.fleet.build import build_processes
from twofold.fleet.fleet import Fleet
from twofold.models.find import find_checkpoint
from twofold.plan import Plan

NEVER = 1 << 30
OUTPUT = 4


def fleet_of(model: str, layerwise_tokens: int) -> Fleet:
    """One instance for prompts and one for tokens, a process each."""
    plan = Plan.from_dict(
        {
            "model": model,
            "techniques": [f"splitwise:layerwise_tokens={layerwise_tokens}"],
            "engine": {"max_num_seqs": 4, "max_context": 4096, "prefix_caching": False, "processes": True},
        }
    )
    return build_processes(plan, find_checkpoint(model))


def played(fleet: Fleet, prompt: list[int]) -> dict[str, float]:
    """One prompt, in milliseconds."""
    fleet.downtimes = []
    params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True)
    (request,) = fleet.play([(0.0, prompt, params)], record_times=True)
    times = request.token_times
    assert times is not None
    return {
        "first_to_second": 1e3 * (times[1] - times[0]),
        "stood_still": 1e3 * sum(fleet.downtimes),
        "first": 1e3 * (times[0] - request.arrival_time),
    }


def measured(model: str, length: int, rounds: int) -> dict[str, Any]:
    """Medians of `rounds` rounds in which each takes its turn."""
    fleets = {"layer by layer": fleet_of(model, 0), "at once": fleet_of(model, NEVER)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in fleets}
    rng = random.Random(1)
    try:
        for number in range(rounds + 1):
            prompt = [rng.randrange(100, 10_000) for _ in range(length)]
            for name, fleet in fleets.items():
                if number == 1:
                    fleet.reset_totals()
                found[name].append(played(fleet, prompt))
        counters = {name: dict(fleet.policy.counters) for name, fleet in fleets.items()}
    finally:
        for fleet in fleets.values():
            fleet.close()
    results: dict[str, Any] = {}
    for name, all_rounds in found.items():
        warm = all_rounds[1:]
        results[name] = {what: median(r[what] for r in warm) for what in warm[0]}
        results[name]["sent_bytes"] = counters[name]["sent_bytes"]
        overlapped = counters[name].get("overlapped_bytes", 0)
        results[name]["overlapped"] = overlapped / counters[name]["sent_bytes"]
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measured(options.model, options.prompt, options.rounds)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for name, r in results.items():
        print(
            f"{name:15} first to second token {r['first_to_second']:7.1f} ms, stood still "
            f"{r['stood_still']:6.1f} ms, first token {r['first']:7.1f} ms, {r['sent_bytes'] / 1e6:.1f} MB "
            f"sent, {r['overlapped']:.0%} of it beside the prompt"
        )


if __name__ == "__main__":
    main()
