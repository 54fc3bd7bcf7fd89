"""Conversations stay with the worker that cached them, and load spreads."""

from random import Random

from twofold.engine.sampling_params import SamplingParams
from twofold.server.messages import Embed, Generate, Ready
from twofold.server.routing import PrefixAffinity, WorkerState

SIZE = 4


def ready(num_blocks=1000):
    return Ready("tiny", 512, 8, 64, SIZE, num_blocks, 100)


def workers(*loads, num_blocks=1000):
    return [WorkerState(f"worker-{i}", ready(num_blocks), load) for i, load in enumerate(loads)]


def generate(ids, id="a"):
    return Generate(id, tuple(ids), SamplingParams())


def test_a_conversation_stays_with_its_worker_while_it_grows():
    router, rng, states = PrefixAffinity(), Random(0), workers(0, 0, 0)
    histories = [[rng.randrange(100) for _ in range(20)] for _ in range(9)]
    homes = [router.choose(generate(ids), states) for ids in histories]
    assert {homes.count(state.name) for state in states} == {3}
    for _ in range(5):
        for ids, home in zip(histories, homes, strict=True):
            ids += [rng.randrange(100) for _ in range(10)]
            assert router.choose(generate(ids), states) == home


def test_affinity_ends_where_the_queue_is_longer_by_more_than_the_margin():
    router = PrefixAffinity(margin=2)
    prompt = generate(range(20))
    assert router.choose(prompt, workers(0, 1)) == "worker-0"
    assert router.choose(prompt, workers(7, 5)) == "worker-0"
    assert router.choose(prompt, workers(8, 5)) == "worker-1"
    # Now both know it, and the shorter queue decides.
    assert router.choose(prompt, workers(1, 0)) == "worker-1"
    assert router.choose(prompt, workers(0, 1)) == "worker-0"


def test_a_shared_beginning_does_not_keep_everything_on_one_worker():
    router, states = PrefixAffinity(), workers(0, 0, 0)
    system = list(range(40))
    for index in range(60):
        name = router.choose(generate([*system, 50 + index, 51 + index, 52 + index, 0, 1]), states)
        next(state for state in states if state.name == name).num_jobs += 1
    loads = [state.num_jobs for state in states]
    assert max(loads) - min(loads) <= router.margin + 1


def test_prompts_shorter_than_a_block_and_embeddings_go_to_the_least_busy():
    router = PrefixAffinity()
    for job in (generate(range(SIZE)), Embed("a", tuple(range(40)))):
        assert router.choose(job, workers(1, 0, 2)) == "worker-1"
        assert router.choose(job, workers(0, 1, 2)) == "worker-0"


def test_a_lost_worker_s_keys_are_forgotten():
    router = PrefixAffinity()
    prompt = generate(range(40))
    home = router.choose(prompt, workers(0, 0))
    router.forget(home)
    other = next(state.name for state in workers(0, 0) if state.name != home)
    assert router.choose(generate(range(100, 140)), workers(0, 0)) == home  # it knows as little as the other
    assert router.choose(prompt, [state for state in workers(0, 0) if state.name == other]) == other
    assert router.choose(prompt, workers(0, 0)) == other


def test_as_many_blocks_are_remembered_as_the_cache_has_and_the_beginning_longest():
    router = PrefixAffinity()
    states = workers(0, 0, num_blocks=5)
    long = generate(range(41))  # ten blocks, of which five fit
    assert router.choose(long, states) == "worker-0"
    assert router.choose(generate(range(200, 212)), states) == "worker-1"
    # The leading five are known: a prompt that shares only these goes there.
    assert router.choose(generate([*range(20), *range(300, 320)]), workers(3, 0, num_blocks=5)) == "worker-0"
    # Others have since taken their place.
    assert router.choose(generate(range(400, 440)), workers(0, 9, num_blocks=5)) == "worker-0"
    assert router.choose(long, workers(1, 0, num_blocks=5)) == "worker-1"
