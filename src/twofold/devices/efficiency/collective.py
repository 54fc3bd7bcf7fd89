"""How much of its links a generation's collectives use."""

from __future__ import annotations

from twofold.devices.figures import Bytes, Ratio, Seconds, Strict
from twofold.devices.links import Link, Peers, Switch


class PeerReduce(Strict):
    """All-reduce by kernels that read the other devices' memory, over links between every pair.

    start: seconds of such a kernel with its barrier; share: of the links' bandwidth; limit: messages that it
    is used for are smaller.
    """

    start: Seconds
    share: Ratio
    limit: Bytes


class SwitchReduce(Strict):
    """All-reduce whose sums the switch makes. start: seconds to set it up; share: of the links' bandwidth."""

    start: Seconds
    share: Ratio


class CollectiveEfficiency(Strict):
    """How collectives use links.

    start: seconds of any collective besides its steps; step: how many times the link's latency a step takes;
    blocks: how many times longer a step takes when it sends blocks at full bandwidth; share: of the links'
    bandwidth that is reached then; peers, switch: further ways to all-reduce within a node.
    """

    start: Seconds
    step: Ratio
    blocks: Ratio
    share: Ratio
    peers: PeerReduce | None = None
    switch: SwitchReduce | None = None

    def within(self, bandwidth: float, latency: float, *, direct: bool) -> Link:
        """The link among devices of a node, whose datasheet says `bandwidth` bytes/s per direction."""
        peers = switch = None
        if direct and self.peers is not None:
            own = self.peers
            peers = Peers(own.start.value, bandwidth * own.share.value, own.limit.value)
        if direct and self.switch is not None:
            switch = Switch(self.switch.start.value, bandwidth * self.switch.share.value)
        return Link(
            bandwidth * self.share.value,
            latency * self.step.value,
            direct,
            self.start.value,
            self.blocks.value,
            peers=peers,
            switch=switch,
        )

    def between(self, bandwidth: float, latency: float) -> Link:
        """The network between nodes."""
        share = bandwidth * self.share.value
        return Link(share, latency, direct=True, start=self.start.value, blocks=self.blocks.value, tree=True)
