"""Predicted times with the intervals and the label that the validation gives them."""

from __future__ import annotations

from twofold.devices.uncertainty import Confidence, Quantity, Standing, confidence_of, spread
from twofold.jobs.intervals import precision_in, standing_of, widened
from twofold.jobs.steps import StepPredictor
from twofold.plan import Plan
from twofold.report.schema import Figure


class Trust:
    """How far times of `predictor`, which was built for `plan`, can be trusted for `tokens` sequences in
    flight of `context` tokens each."""

    def __init__(self, predictor: StepPredictor, plan: Plan, tokens: int, context: int) -> None:
        precision = precision_in(predictor.engine.derived, [use.params for use in plan.techniques])
        self._standing: Standing = standing_of(predictor.device, precision, tokens, context)

    @property
    def confidence(self) -> Confidence:
        """The label of every time."""
        return confidence_of(self._standing)

    def time(self, quantity: Quantity, seconds: float) -> Figure:
        """`seconds` with its interval."""
        return widened(Figure.exact(seconds, "s"), spread(quantity, self._standing))
