"""The host under a virtual clock: what serving software adds to a device's time, and who is let in when."""

from __future__ import annotations

from twofold.devices.base import StepCost
from twofold.engine.serving_profile import ServingProfile


class Host:
    """The host's side of an engine on a modelled device.

    idle_watts: what the device burns while the host works. overlapped: a step is prepared while the one
    before runs; what arrives meanwhile waits for the next.
    """

    def __init__(self, profile: ServingProfile, idle_watts: float) -> None:
        self._idle_watts = idle_watts
        work, front = profile.host, profile.frontend
        self.overlapped = work is not None and work.overlapped
        self._works = work is not None
        if work is not None:
            self._step, self._sequence, self._token = work.step.value, work.sequence.value, work.token.value
            self._launch, self._graph_seqs = work.launch.value, int(work.graph_seqs.value)
        self._request = front.request.value if front is not None else 0.0
        self._prompt_token = front.prompt_token.value if front is not None else 0.0
        self._response = front.response.value if front is not None else 0.0
        self._streamed_token = front.streamed_token.value if front is not None else 0.0
        self._received = self._streamed = 0.0

    def step(self, cost: StepCost, seqs: int, tokens: int, prefills: int) -> StepCost:
        """`cost` of a step on the device alone, with the host's part of it: for a batch of `seqs` sequences
        and `tokens` tokens in which there are `prefills` prompts.

        Without a captured graph a step takes at least as long as its ops take to launch. Work that overlaps
        counts as far as it outlasts the device's.
        """
        if not self._works:
            return cost
        work = self._step + self._sequence * seqs + self._token * tokens
        captured = not prefills and seqs <= self._graph_seqs
        launching = 0.0 if captured else cost.launches * self._launch
        if self.overlapped:
            seconds = max(cost.seconds, work + launching)
        else:
            seconds = work + max(cost.seconds, launching)
        extra = seconds - cost.seconds
        if not extra:
            return cost
        joules = None if cost.joules is None else cost.joules + extra * self._idle_watts
        return StepCost(seconds, joules, [cost.stages[0] + extra, *cost.stages[1:]], cost.launches)

    def receive(self, sent: float, prompt_tokens: int) -> float:
        """When the engine sees a request that a client has sent at `sent`. Call in order of sending."""
        self._received = max(self._received, sent) + self._request + self._prompt_token * prompt_tokens
        return self._received

    def deliver(self, now: float, tokens: int) -> float:
        """When clients have the `tokens` that a step has yielded by `now`."""
        self._streamed = max(self._streamed, now) + self._streamed_token * tokens
        return self._streamed + self._response
