"""The process that runs the other engine: started with an interpreter of its own, asked one timing at a time.

Only one of the two ever works: the peer waits in a blocking read while we measure ourselves, and we wait in
one while it measures itself. `SETTLE` seconds pass at every change of turns, in which threads that spin
after their last piece of work fall asleep.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

SETTLE = 0.05


class Peer:
    """`script`, run by the interpreter `python`; a context manager that ends it.

    environment: its variables, so that what we set for our own libraries does not slow the peer's. SystemExit
    with `how_to_install` where that interpreter lacks `module`.
    """

    def __init__(
        self, python: str, script: Path, module: str, how_to_install: str, environment: dict[str, str]
    ) -> None:
        try:
            found = subprocess.run(
                [python, "-c", f"import {module}"], capture_output=True, text=True, env=environment
            )
        except OSError as error:
            raise SystemExit(f"--peer-python {python}: {error}") from None
        if found.returncode:
            reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SystemExit(f"{python} cannot import {module} ({reason}). {how_to_install}")
        self._process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )

    def ask(self, do: str, **request: Any) -> Any:
        """The answer to one request. RuntimeError where the peer reports a fault or has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        time.sleep(SETTLE)
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        line = self._process.stdout.readline()
        time.sleep(SETTLE)
        if not line:
            raise RuntimeError(f"the peer ended with status {self._process.wait()} during {do!r}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"the peer failed at {do!r}: {answer['error']}")
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its input, which ends it
