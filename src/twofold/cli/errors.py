"""How the commands end: exit codes, and one clear line where something went wrong.

0: done · 1: it failed (a technique was never reached, an invariant broke, the system refused) · 2: a mistake
in what was asked for · 130: interrupted. TWOFOLD_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

OK, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def complain(message: str, word: str = "error") -> None:
    """One line (or paragraph) on standard error: `error: …`, `warning: …` or `note: …`."""
    print(f"{word}: {message}", file=sys.stderr)


def show_warning(message: Warning | str, *where: Any, **rest: Any) -> None:
    """A warning of Python's as one line of ours; takes the place of `warnings.showwarning`."""
    del where, rest
    complain(str(message), "warning")


def _debugging() -> bool:
    return os.environ.get("TWOFOLD_DEBUG", "") not in ("", "0")


def _failures() -> tuple[type[BaseException], ...]:
    """Errors that are results in themselves. Looked up among what is loaded: importing them would load
    torch."""
    places = {
        "twofold.engine.active": "NotReachedError",
        "twofold.engine.integrity": "IntegrityError",
        "twofold.engine.simulate": "SimulationError",
        "twofold.server.workers": "WorkerFailedError",
    }
    return tuple(getattr(sys.modules[m], name) for m, name in places.items() if m in sys.modules)


class Commands(TyperGroup):
    """The group of all commands: turns errors that a user can cause into a message and an exit code."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with; its name may have two words (`bench serve`), of which the first
        alone may be a command too."""
        name = " ".join(args[:2])
        if len(args) > 1 and name in self.commands:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ValueError as error:
            code, message = MISTAKE, str(error)
            raised: BaseException = error
        except KeyboardInterrupt as interrupt:
            code, message, raised = INTERRUPTED, "interrupted", interrupt
        except BrokenPipeError:
            raise  # the reader of our output has gone; typer ends quietly
        except OSError as error:
            code, message, raised = FAILED, str(error), error
        except _failures() as error:
            code, message, raised = FAILED, str(error), error
        if _debugging():
            raise raised
        complain(message)
        raise typer.Exit(code)
