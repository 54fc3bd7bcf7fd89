"""Batches of messages over a socket, in whatever pieces they arrive."""

from __future__ import annotations

import socket

import pytest

from twofold.engine.sampling_params import SamplingParams
from twofold.server.channel import Channel, Unpacker, pack
from twofold.server.messages import Cancel, Chunk, Ended, Generate, Stop, TokenInfo

MESSAGES = [
    Generate("a", (1, 2, 3), SamplingParams(max_tokens=4, stop=("x",)), 1),
    Cancel("b"),
    Chunk("c", "Grüße 😀", 2, (TokenInfo(5, -0.5, ((5, -0.5), (6, -1.0))),)),
    Ended("c", "stop", 3, 2, 0, 0, 0, 0.1, 0.2, 0.3, "x"),
    Stop(),
]


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_batches_survive_being_cut(size: int) -> None:
    data = pack(MESSAGES[:2]) + pack([]) + pack(MESSAGES[2:])
    unpacker = Unpacker()
    found = [m for at in range(0, len(data), size) for m in unpacker.feed(data[at : at + size])]
    assert found == MESSAGES


def test_a_worker_takes_all_that_is_there() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs)
        assert channel.receive() == []
        assert channel.receive(0.001) == []
        for message in MESSAGES:
            ours.sendall(pack([message]))
        assert channel.receive(None) == MESSAGES
        large = [Generate("d", tuple(range(100_000)), SamplingParams())]
        ours.setblocking(False)
        data = pack(large)
        found = []
        while not found:  # the socket holds less than this batch: it is taken in as it comes
            if data:
                data = data[ours.send(data[:60_000]) :]
            found = channel.receive()
        assert found == large


def test_a_worker_notices_that_the_server_has_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(theirs)
        ours.close()
        with pytest.raises(ConnectionError):
            channel.receive()
        with pytest.raises(ConnectionError):
            channel.send([Stop()])
