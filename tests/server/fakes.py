"""A Service in one process: the worker's loop in a thread, so that the API is tested without processes.

`refuse` is what submissions raise, `script` gives the events of a job instead of the engine. While it is held
(`hold`, `allow`, `go`) the engine goes on step by step, so that what happens in the middle of an answer is
tested there, however slow or fast the machine is.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import mkdtemp
from typing import Any

import uvicorn
from tests.models.tiny import tiny_gguf
from tests.tiny import tiny_plan
from tests.waiting import PATIENCE, until

from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.models.loading import load_checkpoint
from twofold.plan import Plan
from twofold.server.dispatcher import Refused
from twofold.server.messages import (
    Cancel,
    Chunk,
    Command,
    Embedded,
    Ended,
    Failed,
    Job,
    Ready,
    RequestEvent,
    Status,
    Stop,
)
from twofold.server.service import Stream
from twofold.server.settings import ServerSettings
from twofold.server.worker_loop import Watch, WorkerLoop


class _Line:
    """Commands and events by a queue and a callback instead of a pipe. None among the commands is one step of
    a held engine. status: the newest report."""

    def __init__(self, deliver: Callable[[RequestEvent], None]) -> None:
        self.commands: SimpleQueue[Command | None] = SimpleQueue()
        self._deliver = deliver
        self.held = False
        self.status: Any = None

    def receive(self, timeout: float | None = 0.0) -> list[Command]:
        found: list[Command | None] = []
        try:
            found.append(self.commands.get(self.held or timeout != 0.0, timeout or None))
            while not self.held:
                found.append(self.commands.get_nowait())
        except Empty:
            pass
        return [command for command in found if command is not None]

    def send(self, messages: Sequence[object]) -> None:
        for message in messages:
            if isinstance(message, Chunk | Ended | Embedded | Failed):
                self._deliver(message)
            elif isinstance(message, Status):
                self.status = message.snapshot


class _NoWatch:
    def observe(self) -> None: ...

    def snapshot(self) -> None: ...


class _EveryStep:
    """Reports after every step instead of a few times a second."""

    def __init__(self, watch: Watch, line: _Line) -> None:
        self._watch, self._line = watch, line

    def observe(self) -> None:
        self._watch.observe()
        self._line.status = self._watch.snapshot()

    def snapshot(self) -> Any:
        return self._watch.snapshot()


class FakeService:
    """See the module. watch: what its snapshots are made of; without one there are none."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        settings: ServerSettings | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.settings = settings or ServerSettings()
        self.plan = plan
        self.engine = engine
        self.model_name = self.settings.model_name or "tiny"
        self.tokenizer: Any = engine.tokenizer
        self.created = 1_700_000_000
        self.refuse: Refused | None = None
        self.script: Callable[[Job], Sequence[RequestEvent]] = lambda _: ()
        config, blocks = engine.scheduler.config, engine.scheduler.blocks
        self.ready: Ready | None = Ready(
            model=self.model_name,
            max_context=config.max_context or 1 << 30,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            block_size=blocks.block_size,
            num_blocks=blocks.num_blocks,
            vocab_size=engine.runner.model.spec.vocab_size,
        )
        self.jobs: list[Job] = []
        self.left: list[str] = []
        self.refused: Counter[str] = Counter()
        self.draining = False
        self.healthy = True
        self._observers: list[Callable[[RequestEvent, float], None]] = []
        self._streams: dict[str, Stream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.line = _Line(self._from_worker)
        worker = WorkerLoop(engine, self.line, _EveryStep(watch, self.line) if watch else _NoWatch())
        self._thread = threading.Thread(target=worker.run, daemon=True)

    # --- what tests do ---

    def hold(self) -> None:
        """From now on a step is done for every command and for every one that `allow` adds."""
        self.line.held = True

    def allow(self, steps: int) -> None:
        """Have a held engine do so many more steps of what has been submitted."""
        for _ in range(steps):
            self.line.commands.put(None)

    def go(self) -> None:
        """Hold it no longer."""
        self.line.held = False
        self.line.commands.put(None)

    # --- what routes use ---

    async def start(self) -> None:
        """Run the engine."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Let what runs end, then leave."""
        self.go()
        self.line.commands.put(Stop())
        await asyncio.to_thread(self._thread.join, PATIENCE)

    def submit(self, job: Job) -> Stream:
        """Queue a job; raises what `refuse` says."""
        if self.refuse is not None:
            self.refused[self.refuse.kind] += 1
            raise self.refuse
        assert job.id not in self._streams, job.id
        self.jobs.append(job)
        stream = self._streams[job.id] = Stream(job.id, self._leave)
        events = self.script(job)
        for event in events:
            self._deliver(event)
        if not events:
            self.line.commands.put(job)
        return stream

    def snapshots(self) -> dict[str, Any]:
        """The newest report, where one was made."""
        return {} if self.line.status is None else {"worker-0": self.line.status}

    @property
    def num_running(self) -> int:
        """Requests that the scheduler runs."""
        return self.engine.scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Requests accepted and not running."""
        return max(len(self._streams) - self.num_running, 0)

    @property
    def num_left(self) -> int:
        """Streams that were closed before their end."""
        return len(self.left)

    @property
    def num_used_blocks(self) -> int:
        """Blocks that requests hold."""
        return self.engine.scheduler.blocks.num_used

    def observe(self, callback: Callable[[RequestEvent, float], None]) -> None:
        """Hear of every event that is delivered."""
        self._observers.append(callback)

    # --- inside ---

    def _leave(self, id: str) -> None:
        self.left.append(id)
        self._streams.pop(id, None)
        self.line.commands.put(Cancel(id))

    def _from_worker(self, event: RequestEvent) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, event)

    def _deliver(self, event: RequestEvent) -> None:
        stream = self._streams.get(event.id)
        if stream is None:
            return
        if not isinstance(event, Chunk):
            del self._streams[event.id]
        for callback in self._observers:
            callback(event, 0.0)
        stream.put(event)


def fake_service(
    settings: ServerSettings | None = None,
    *,
    path: Path | None = None,
    watch: Callable[[Engine, Plan], Watch] | None = None,
    **changes: object,
) -> FakeService:
    """A service on the tiny byte-level model (context 2048), or on the checkpoint at `path`. watch: what
    makes its snapshots; changes: of the plan."""
    path = path or tiny_gguf(Path(mkdtemp(prefix="twofold-api-")) / "tiny.gguf", context=2048)
    checkpoint = load_checkpoint(path)
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 256, "max_context": 2048}
    plan = tiny_plan(**{"engine": limits, **changes})
    ids = list(range(3, 99))
    engine = build_engine(plan, TorchDevice("cpu"), checkpoint.spec, checkpoint, calibration=lambda: ids)
    return FakeService(engine, plan, settings, watch(engine, plan) if watch else None)


@contextmanager
def served(service: Any) -> Iterator[str]:
    """The API of `service` on a free port, by uvicorn in a thread: the URL without a path."""
    from twofold.server.app import create_app

    app = create_app(service, service.settings)
    # A connection that the server closes just as a client takes it up again would be an error of the test's.
    keep = {"timeout_keep_alive": int(PATIENCE), "timeout_graceful_shutdown": 5}
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on", **keep))

    async def serve() -> None:
        await service.start()
        await server.serve()
        await service.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started, "the server ended before it began"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
