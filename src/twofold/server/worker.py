"""A worker process: one engine, built from the plan and served until the server says stop or goes.

Nothing heavy is imported before the process has settled how torch's threads wait.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Any

from twofold.kernels.cpu.threads import default_threads, quiet_openmp
from twofold.plan import Plan
from twofold.server.channel import Channel
from twofold.server.messages import Broken, Loading, Ready

if TYPE_CHECKING:
    from twofold.engine.engine import Engine


def share_of_machine(plan: Plan, replicas: int) -> Plan:
    """`plan` as each of `replicas` workers on one machine gets it: where it leaves them open, threads and
    memory are shared out evenly."""
    if replicas == 1:
        return plan
    engine = plan.engine
    shares: dict[str, Any] = {}
    if engine.threads is None and plan.device == "cpu":
        shares["threads"] = max(1, default_threads() // (replicas * plan.parallel.tp))  # of each rank
    if engine.memory is None:
        shares["memory_share"] = engine.memory_share / replicas
    return plan.model_copy(update={"engine": engine.model_copy(update=shares)})


def work(sock: socket.socket, plan: Plan) -> None:
    """Main function of the process: answers commands on `sock` until Stop has come or the server has gone.

    The server decides when it ends: signals that reach the whole group (Ctrl-C, a service manager) are for
    the server, which lets running answers end first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    quiet_openmp()
    channel = Channel(sock)
    try:
        _serve(channel, plan)
    except ConnectionError:
        return  # the server has gone: nobody is left to tell
    except ValueError as error:
        channel.send([Broken(str(error), by_user=True)])
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        channel.send([Broken(f"{type(error).__name__}: {error}", by_user=False)])


def _serve(channel: Channel, plan: Plan) -> None:
    from twofold.jobs.run import load_engine
    from twofold.models.find import find_checkpoint
    from twofold.server.snapshot import Watch
    from twofold.server.worker_loop import WorkerLoop

    def progress(what: str, done: int, total: int) -> None:
        channel.send([Loading(what, done, total)])

    engine = load_engine(plan, find_checkpoint(plan.model), progress=progress)
    loop = WorkerLoop(engine, channel, Watch(engine, plan))
    # What is there now stays: the collector need not look at it again in the middle of somebody's answer.
    gc.collect()
    gc.freeze()
    channel.send([_ready(engine, plan)])
    try:
        loop.run()
    except ValueError as error:
        raise RuntimeError(f"a bug: {error}") from error


def _ready(engine: Engine, plan: Plan) -> Ready:
    from twofold.jobs.predict import label_of

    config, blocks, memory = engine.scheduler.config, engine.scheduler.blocks, engine.memory
    assert config.max_context is not None
    return Ready(
        model=plan.model,
        max_context=config.max_context,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        block_size=blocks.block_size,
        num_blocks=blocks.num_blocks,
        vocab_size=engine.runner.model.spec.vocab_size,
        about={
            "device": plan.device,
            "techniques": label_of(plan),
            "derived": dict(engine.derived),
            "memory": {
                "weights": memory.weights,
                "cache": memory.cache,
                "activations": memory.activations,
                "capacity": memory.capacity,
            },
        },
    )
