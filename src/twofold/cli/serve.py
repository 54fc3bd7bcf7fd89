"""`serve`: the OpenAI API and a page, with the plan's techniques on."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import output, read
from twofold.cli.errors import complain
from twofold.cli.plan_options import ENGINE, MODEL
from twofold.cli.plans import Given, PlanFile, plan_options

if TYPE_CHECKING:
    from twofold.server.run import Serving

SERVER = "Server"
KEY_VARIABLE = "TWOFOLD_API_KEY"
# What only predictions and comparisons use; replicas are an option of the server's own.
_ELSEWHERE = ("devices", "combinations", "behaviour", "parallel.pp", "parallel.dp", "parallel.ep")


@plan_options(MODEL, ENGINE, without=_ELSEWHERE)
def serve(
    given: Given,
    plan_file: PlanFile = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.", rich_help_panel=SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 is any that is free.", rich_help_panel=SERVER)
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="What clients must send as bearer token.",
            envvar=KEY_VARIABLE,
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            help="An origin that browsers may call from; repeat for more, '*' is any.",
            metavar="ORIGIN",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    max_body: Annotated[
        str, typer.Option(help="Largest request.", metavar="SIZE", rich_help_panel=SERVER)
    ] = "2MiB",
    max_prompt: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of a prompt; not given: what the model and its cache take.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    max_queue: Annotated[
        int,
        typer.Option(help="Requests that may wait beyond those that can run.", rich_help_panel=SERVER),
    ] = 256,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds from a request's arrival to the end of its answer.", rich_help_panel=SERVER
        ),
    ] = 600.0,
    drain: Annotated[
        float,
        typer.Option(help="Seconds that running answers get after SIGTERM.", rich_help_panel=SERVER),
    ] = 30.0,
    replicas: Annotated[
        int, typer.Option(help="Workers, each with the whole model.", rich_help_panel=SERVER)
    ] = 1,
    model_name: Annotated[
        str | None,
        typer.Option(
            help="What clients call the model; not given: as the plan does.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Workers on the Ray cluster at this address, behind Ray Serve; 'auto' finds one, 'local' "
            "starts one.",
            metavar="ADDRESS",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
) -> None:
    """Serve a plan to OpenAI clients, and to people on a page.

    It listens on this machine alone unless --host says otherwise. SIGTERM and Ctrl-C let running answers end;
    a second one ends at once.
    """
    from twofold.server.ray_serve import serve_on_ray
    from twofold.server.run import is_loopback
    from twofold.server.run import serve as run_server
    from twofold.server.settings import ServerSettings

    plan = given.plan(plan_file)
    settings = ServerSettings(
        host=host,
        port=port,
        api_key=api_key,
        cors=tuple(cors or ()),
        max_body=read.size(max_body),
        max_prompt=max_prompt,
        max_queue=max_queue,
        timeout=timeout,
        drain=drain,
        replicas=replicas,
        model_name=model_name,
    )
    if api_key is None and not is_loopback(host):
        complain(
            f"whoever reaches {host} may use this server: it asks for no key; --api-key or {KEY_VARIABLE} "
            "sets one",
            "warning",
        )
    with ExitStack() as loading:
        progress = loading.enter_context(output.progress_bar())

        def announce(serving: Serving, address: str) -> None:
            loading.close()
            _announce(serving, address)

        if ray is None:
            run_server(plan, settings, announce, progress)
        else:
            serve_on_ray(plan, settings, ray, announce)


def _announce(service: Serving, address: str) -> None:
    """Say what is on, where it is and how to try it."""
    from twofold.report.host import twofold_version

    ready = service.ready
    assert ready is not None
    about, derived, memory = ready.about, ready.about["derived"], ready.about["memory"]
    kernels = " ".join(str(derived[key]) for key in ("kernels", "isa") if derived.get(key))
    threads = f", {derived['threads']} threads" if "threads" in derived else ""
    replicas = service.settings.replicas
    each = f"{replicas} workers, each: " if replicas > 1 else ""
    parts = ("weights", "cache", "activations")
    sizes = ", ".join(f"{part} {memory[part] / 1e9:.2f} GB" for part in parts)
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if service.settings.api_key else ""
    body = json.dumps(
        {"model": service.model_name, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    )
    print(
        f"Twofold {twofold_version()} serves {service.model_name} on {address} (API: {address}/v1)\n"
        f"  techniques  {about['techniques']}\n"
        f"  device      {each}{about['device']}, {kernels} kernels{threads}\n"
        f"  limits      {ready.max_num_seqs} requests at a time, {ready.max_context:,} tokens each; cache of "
        f"{ready.num_blocks * ready.block_size:,} tokens\n"
        f"  memory      {sizes}; {sum(memory[part] for part in parts) / 1e9:.2f} of "
        f"{memory['capacity'] / 1e9:.2f} GB\n"
        f"  try it      curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} "
        f"-d '{body}'",
        flush=True,
    )
