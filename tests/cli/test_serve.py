"""`twofold serve`: what can be wrong before it listens. What it does then is tested in tests/server."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "h100-sxm"], "'h100-sxm' is a modelled device and computes no text"),
        (["--port", "70000"], "port is 70000; it must be from 0"),
        (["--replicas", "0"], "replicas is 0; it must be at least 1"),
        (["--max-body", "10 bananas"], "'10 bananas' is not in B"),
        (["--timeout", "0"], "timeout is 0.0; it must be above 0 seconds"),
        (["--model", "smollm9-1b", "--port", "0"], "unknown model 'smollm9-1b'"),
        (["--host", "no.such.host.invalid"], "host 'no.such.host.invalid' has no address here"),
    ],
)
def test_mistakes_are_said_at_once(twofold: Twofold, options: list[str], message: str) -> None:
    result = twofold("serve", *options)
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr


def test_a_port_that_is_taken(twofold: Twofold, gguf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = twofold("serve", "--model", gguf, "--port", str(port))
    assert result.exit_code == 2
    assert f"port {port} on 127.0.0.1 is in use: choose another with --port" in result.stderr


def test_whoever_listens_to_the_world_without_a_key_is_warned(twofold: Twofold, mute: Path) -> None:
    options = ("serve", "--model", mute, "--host", "0.0.0.0", "--port", "0")
    result = twofold(*options)
    assert "warning: whoever reaches 0.0.0.0 may use this server" in result.stderr
    assert result.exit_code == 2
    assert "no tokenizer" in result.stderr
    assert "warning" not in twofold(*options, "--api-key", "secret").stderr


def test_the_servers_own_process_needs_no_torch() -> None:
    code = "import sys, twofold.server.service; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
