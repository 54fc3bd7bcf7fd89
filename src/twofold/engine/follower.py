"""The process of a rank other than 0: builds its share of the model, then does what it is told until rank 0
closes the connection or is gone.

Nothing heavy is imported before the process has settled how torch's threads wait.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from twofold.kernels.cpu.threads import quiet_openmp

LOOK_SECONDS = 0.5
"""How often a follower looks whether rank 0 is alive, while it may be waiting for it on a GPU."""


def main(descriptor: int) -> None:
    """Serve the connection behind a file descriptor. Rank 0 decides when it ends: signals that reach the
    whole group of processes (Ctrl-C, a service manager) are for rank 0."""
    live_with_parent()
    quiet_openmp()
    connection = Connection(descriptor)
    try:
        _serve(connection)
    except EOFError:
        os._exit(0)  # what torch would tidy up, the system does in no time
    except BaseException as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        try:
            connection.send(reason)
        except OSError:
            return  # rank 0 has gone: nobody is left to tell
        raise


def live_with_parent() -> None:
    """Let this process end when its parent has, and not before: signals to the group are the parent's."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _serve(connection: Connection) -> None:
    import torch

    from twofold.devices import group
    from twofold.engine.followers import Setup
    from twofold.engine.share import build_rank
    from twofold.engine.step_message import unpack

    connection.send("up")
    setup: Setup = connection.recv()
    rank = build_rank(setup)
    device = rank.device
    connection.send("built")
    try:
        with torch.inference_mode():
            while True:
                method, args = connection.recv()
                device.begin_step()
                if method in ("forward", "select"):
                    args = (unpack(args[0], rank.where),)
                getattr(rank, method)(*args)
                device.end_step()
    finally:
        group.leave()


def _watch(parent: int) -> None:
    """End the process once its parent has."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
