"""To be imported before torch: has torch's threads sleep, not spin, between parallel ops, as the command line
does. `ENVIRONMENT` is what the process was started with, for a peer that shall not be held to that."""

from __future__ import annotations

import os

from twofold.kernels.cpu.threads import quiet_openmp

ENVIRONMENT = dict(os.environ)
quiet_openmp()
