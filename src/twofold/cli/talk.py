"""`generate` and `chat`: text out of a model, with the plan's techniques on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import output
from twofold.cli.errors import complain
from twofold.cli.plan_options import ENGINE, MODEL
from twofold.cli.plans import Given, plan_options
from twofold.cli.sampling import sampling_options

if TYPE_CHECKING:
    from twofold.engine.sampling_params import SamplingParams
    from twofold.jobs.session import Answer, Conversation, Session

PlanPath = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan in YAML, for model, device and techniques.", show_default=False),
]
Verbose = Annotated[bool, typer.Option("--json", help="Print the answer and its speed as JSON.")]
# What only predictions and comparisons use.
_ELSEWHERE = (
    "devices",
    "combinations",
    "behaviour",
    "parallel.pp",
    "parallel.dp",
    "parallel.ep",
)

HELP = "/reset forgets the conversation, /stats shows the speed so far, /exit ends; Ctrl-C stops an answer."


@plan_options(MODEL, ENGINE, without=_ELSEWHERE)
@sampling_options
def generate(
    given: Given,
    sampling: Callable[[], SamplingParams],
    prompt: Annotated[
        str, typer.Argument(help="What to complete or answer; '-' reads standard input.", show_default=False)
    ],
    plan: PlanPath = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Complete the text as it is, without the model's chat template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="The system message.", show_default=False)
    ] = None,
    json: Verbose = False,
) -> None:
    """Answer one prompt, streaming. Models made for chat get it in their chat template; --raw gives the text
    as it is."""
    params = sampling()
    if raw and system is not None:
        raise ValueError("--system is part of the chat template, which --raw leaves out; drop one of them")
    text = sys.stdin.read() if prompt == "-" else prompt
    with closing(_load(given, plan)) as session:
        asked: Any = text
        if not raw and (session.has_chat_template() or system is not None):
            first = [{"role": "system", "content": system}] if system is not None else []
            asked = session.prompt_of([*first, {"role": "user", "content": text}])
        with _interrupts() as interrupted:
            answer = session.answer(asked, params, _ignore if json else _print, interrupted)
        if json:
            head = {"model": session.model, "device": session.device, "techniques": session.techniques}
            output.show_json({**head, **answer.record()})
        else:
            print()
            _tell(answer)
        if answer.finish_reason == "cancelled":
            raise KeyboardInterrupt


@plan_options(MODEL, ENGINE, without=_ELSEWHERE)
@sampling_options
def chat(
    given: Given,
    sampling: Callable[[], SamplingParams],
    plan: PlanPath = None,
    system: Annotated[
        str | None, typer.Option("--system", help="The system message.", show_default=False)
    ] = None,
) -> None:
    """Talk to a model. /reset forgets the conversation, /stats shows the speed, /exit ends; Ctrl-C stops an
    answer."""
    from twofold.jobs.session import Conversation

    params = sampling()
    with closing(_load(given, plan)) as session:
        if not session.has_chat_template():
            raise ValueError(
                f"{session.model} has no chat template: it is not made for chat; use `twofold generate`"
            )
        conversation = Conversation(session, system)
        complain(f"{session.model} on {session.device}, {session.techniques}. {HELP}", "chat")
        for line in _lines():
            if line.startswith("/"):
                if not _obey(line, conversation):
                    break
            elif line:
                _reply(conversation, line, params)
        complain(conversation.stats(), "chat")


def _load(given: Given, plan: Path | None) -> Session:
    from twofold.jobs.session import Session

    wanted = given.plan(plan)
    with output.progress_bar() as progress:
        return Session(wanted, progress)


def _reply(conversation: Conversation, line: str, params: SamplingParams) -> None:
    try:
        with _interrupts() as interrupted:
            answer = conversation.ask(line, params, _print, interrupted)
    except ValueError as error:
        complain(f"{error}; /reset begins anew")
        return
    print()
    _tell(answer)


def _obey(line: str, conversation: Conversation) -> bool:
    """Do what a line that begins with a slash says. False where that is to end."""
    if line in ("/exit", "/quit"):
        return False
    if line == "/reset":
        conversation.reset()
        complain("the conversation is forgotten", "chat")
    elif line == "/stats":
        complain(conversation.stats(), "chat")
    else:
        complain(("" if line == "/help" else f"unknown command {line!r}; ") + HELP, "chat")
    return True


def _lines() -> Iterator[str]:
    """What the user types, line by line, until the input ends. Ctrl-C at the prompt clears the line."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # not on every system; lines can be typed all the same
            import readline  # noqa: F401  (gives `input` editing and history)
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C only sets what the function given says: a step that was begun is finished, so that
    the engine stays whole. A second Ctrl-C interrupts at once."""
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _print(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _ignore(piece: str) -> None:
    del piece


def _tell(answer: Answer) -> None:
    sys.stdout.flush()
    print(f"[{answer.speed()}]", file=sys.stderr)
