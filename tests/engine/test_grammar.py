"""Grammars and biases: every output follows what was asked, with guesses verified beside it or not."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import llguidance
import pytest
from tests.models.test_tokenizer import sentencepiece_metadata
from tests.models.tiny import tiny_gguf
from tests.tiny import tiny_engine, tiny_plan

from twofold.devices.cpu_device import CpuDevice
from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.grammar import Grammars
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.models.loading import load_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.models.tokenizer_gguf import gguf_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a cat", "a dog", "the bird"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2, "maxItems": 4},
        "old": {"type": "boolean"},
    },
    "required": ["kind", "age", "tags", "old"],
    "additionalProperties": False,
}
COMPACT = {"whitespace_flexible": False}
GRAMMAR = llguidance.LLMatcher.grammar_from_json_schema(SCHEMA, overrides=COMPACT)
CHOICE = llguidance.grammar_from("choice", '["yes", "yesterday", "no"]')
LIMITS = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256}
PROMPT = 'Answer in JSON, like {"kind":"a cat","age":12,"tags":["the","in"],"old":true} please: '


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(tiny_gguf(tmp_path_factory.mktemp("grammar") / "tiny.gguf"))


def engine_of(checkpoint: Checkpoint, device: Any = None, **changes: object) -> Engine:
    plan = tiny_plan(**{"engine": LIMITS, **changes})
    return build_engine(plan, device or TorchDevice("cpu"), checkpoint.spec, checkpoint)


def drawn(seed: int, grammar: str = GRAMMAR, **changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=150, temperature=1.5, seed=seed, grammar=grammar, **changes)


def test_every_output_is_valid_and_ends_by_itself(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint)
    each = [*map(drawn, range(12)), SamplingParams(max_tokens=150, grammar=GRAMMAR)]
    done = engine.generate([PROMPT] * len(each), each)
    for completion in done:
        jsonschema.validate(json.loads(completion.text), SCHEMA)
        assert completion.finish_reason == "stop"
        assert completion.token_ids[-1] in checkpoint.text_tokenizer().eos_ids
    assert len({completion.text for completion in done}) > 10


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_drafts_change_nothing(checkpoint: Checkpoint, temperature: float) -> None:
    """Among the drafts are ones that leave the grammar, and ones with a piece that it allows."""
    each = [
        SamplingParams(max_tokens=150, temperature=temperature, seed=s, grammar=GRAMMAR) for s in range(6)
    ]
    drafting = engine_of(checkpoint, techniques=["copyspec:gamma=1,number_copy=6"])
    with_drafts = drafting.generate([PROMPT] * 6, each)
    without = engine_of(checkpoint).generate([PROMPT] * 6, each)
    assert [c.token_ids for c in with_drafts] == [c.token_ids for c in without]
    assert 0 < drafting.totals.accepted < drafting.totals.drafted


def test_scarce_memory_changes_nothing(checkpoint: Checkpoint) -> None:
    each = [drawn(seed) for seed in range(4)]
    scarce = engine_of(checkpoint, engine={**LIMITS, "cache_blocks": 17})
    got = scarce.generate([PROMPT] * 4, each)
    assert scarce.scheduler.num_preempted > 0
    assert [c.text for c in got] == [c.text for c in engine_of(checkpoint).generate([PROMPT] * 4, each)]


@pytest.mark.skipif(native() is None, reason="the native kernels are not built here")
def test_native_kernels_choose_within_the_grammar(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint, CpuDevice(kernels="native"))
    for completion in engine.generate([PROMPT] * 4, [drawn(s, top_k=20) for s in range(4)]):
        jsonschema.validate(json.loads(completion.text), SCHEMA)


def test_truncation_keeps_to_what_is_allowed(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint)
    changes: list[dict[str, Any]] = [{"top_p": 0.3}, {"top_k": 1}, {"min_p": 0.5}]
    for each in changes:
        text = engine.generate(["Is it?"], drawn(3, CHOICE, **each))[0].text
        assert text in ("yes", "yesterday", "no")


def test_requests_with_and_without_grammar_share_a_step(checkpoint: Checkpoint) -> None:
    plain = SamplingParams(max_tokens=20)
    together = engine_of(checkpoint).generate(["a", "b"], [plain, drawn(1, CHOICE)])
    assert together[0].token_ids == engine_of(checkpoint).generate(["a"], plain)[0].token_ids
    assert together[1].text in ("yes", "yesterday", "no")


def test_logprobs_are_the_models_own(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint)
    prompt = checkpoint.text_tokenizer().encode("Is it?")
    changes: list[dict[str, Any]] = [
        {"grammar": CHOICE},
        {"logit_bias": ((5, 100.0),)},
        {"presence_penalty": 2.0},
    ]
    for each in changes:
        done = engine.generate([prompt], SamplingParams(max_tokens=4, logprobs=0, **each))[0]
        rows = engine.score(prompt + done.token_ids, len(prompt)).log_softmax(-1)
        found = [p.chosen for p in done.logprobs if p is not None]
        wanted = [float(row[token]) for row, token in zip(rows, done.token_ids, strict=True)]
        assert found == pytest.approx(wanted, abs=1e-4)


def test_a_bias_bans_and_forces_tokens() -> None:
    engine = tiny_engine()
    prompt = [[5, 6, 7]]
    free = engine.generate(prompt, SamplingParams(max_tokens=6, ignore_eos=True))[0].token_ids
    ban = tuple((token, -100.0) for token in set(free))
    banned = engine.generate(prompt, SamplingParams(max_tokens=6, ignore_eos=True, logit_bias=ban))[
        0
    ].token_ids
    assert not set(free) & set(banned)
    forced = SamplingParams(max_tokens=6, ignore_eos=True, logit_bias=((9, 100),), temperature=1.0, seed=1)
    assert engine.generate(prompt, forced)[0].token_ids == [9] * 6


def test_a_small_bias_shifts_the_distribution() -> None:
    engine = tiny_engine()

    def share(bias: float) -> float:
        params = SamplingParams(
            max_tokens=150, ignore_eos=True, temperature=3.0, seed=4, logit_bias=((9, bias), (11, -1.0))
        )
        ids = engine.generate([[5, 6, 7]], params)[0].token_ids
        return ids.count(9) / len(ids)

    assert share(-5) < share(4) < share(8) < 1


def test_a_matcher_that_fails_ends_its_request_alone(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint)
    bad = engine.add(PROMPT, drawn(1))
    good = engine.add(PROMPT, drawn(2))
    for _ in range(6):
        engine.step()
    assert bad.matcher is not None
    before = list(bad.output_ids)
    assert not bad.matcher._state.consume_token(0)  # as where the library gives up
    while engine.has_work:
        engine.step()
    assert (bad.finish_reason, good.finish_reason) == ("error", "stop")
    assert bad.output_ids == before
    assert "cannot follow its grammar" in (engine.output(bad.id).error or "")
    jsonschema.validate(json.loads(engine.output(good.id).text), SCHEMA)


def test_what_is_refused(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint)
    with pytest.raises(ValueError, match=r"grammar is refused: .*unknown name: \"foo\""):
        engine.add("a", SamplingParams(grammar="start: foo"))
    with pytest.raises(ValueError, match="Invalid type: foo"):
        engine.add("a", SamplingParams(grammar='{"grammars":[{"json_schema":{"type":"foo"}}]}'))
    with pytest.raises(ValueError, match=r"token ids of logit_bias must lie in 0 … 263; given 3 … 400"):
        engine.add("a", SamplingParams(logit_bias=((400, 1.0), (3, 1.0))))
    with pytest.raises(ValueError, match="needs a tokenizer"):
        tiny_engine().add([1], SamplingParams(grammar=CHOICE))
    assert not engine.has_work


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit_bias": ((1, 101.0),)}, "from -100 to 100"),
        ({"logit_bias": ((1, float("nan")),)}, "from -100 to 100"),
        ({"logit_bias": ((-1, 1.0),)}, "from 0 up"),
        ({"logit_bias": ((1, 1.0), (1, 2.0))}, "twice"),
        ({"grammar": "start: /a/", "ignore_eos": True}, "drop ignore_eos"),
        ({"grammar": "start: /a/", "min_tokens": 3}, "drop min_tokens"),
        ({"grammar": 3}, "a string or None"),
    ],
)
def test_wrong_parameters_say_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**changes)


def test_outputs_of_a_sentencepiece_tokenizer_decode_to_what_was_asked() -> None:
    """Bytes that make up a character and words that begin with a space count as the text they spell."""
    tokenizer = gguf_tokenizer(sentencepiece_metadata())
    assert tokenizer is not None
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    rng = random.Random(0)
    seen = set()
    for _ in range(20):
        matcher = grammars.matcher(llguidance.grammar_from("choice", '["the king", "é and ü"]'))
        output: list[int] = []
        while not tokenizer.eos_ids & set(output):
            allowed = matcher.allowed(output, [])
            assert allowed is not None
            output.append(rng.choice([token for token, byte in enumerate(allowed) if byte]))
        seen.add(tokenizer.decode(output))
    assert seen == {"the king", "é and ü"}


def test_the_state_follows_any_turn_of_the_output(checkpoint: Checkpoint) -> None:
    """Wherever a matcher was before, what it allows depends on output and drafts alone."""
    tokenizer = checkpoint.text_tokenizer()
    grammars = Grammars(tokenizer, checkpoint.spec.vocab_size)
    ids = tokenizer.encode('{"kind":"a cat","age":7,"tags":["","the"],"old":false}', special=False)
    end = min(tokenizer.eos_ids)
    rng = random.Random(1)
    moving = grammars.matcher(GRAMMAR)
    for _ in range(60):
        split = rng.randrange(len(ids) + 1)
        drafts = ids[split : split + rng.randrange(5)]
        if rng.random() < 0.3:
            drafts = [*drafts, rng.choice([5, end]), *ids[:2]]
        assert moving.allowed(ids[:split], drafts) == grammars.matcher(GRAMMAR).allowed(ids[:split], drafts)
    done = moving.allowed(ids, [])
    assert done is not None
    assert {token for token, byte in enumerate(done) if byte} == tokenizer.eos_ids
    assert moving.allowed(ids, [end]) is None
    assert moving.error is None
