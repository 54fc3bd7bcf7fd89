"""What the commands do: run a plan here, predict it elsewhere, compare both. Everything above the engine,
below the shell."""

from twofold.jobs.compare import compare_plan
from twofold.jobs.predict import predict_plan
from twofold.jobs.run import run_plan

__all__ = ["compare_plan", "predict_plan", "run_plan"]
