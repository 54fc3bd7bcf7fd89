"""Runs Vidur's simulator in Vidur's own environment and prints its times as JSON; started by `vidur_peer.py`.

python vidur_driver.py CHECKOUT [options of vidur.main]
"""

import json
import os
import sys
import time


def main() -> None:
    checkout = sys.argv.pop(1)
    # An installed package of that name would come first: the repository has no vidur/__init__.py.
    sys.path.insert(0, checkout)
    os.chdir(checkout)
    from vidur.config import SimulationConfig
    from vidur.simulator import Simulator
    from vidur.utils.random import set_seeds

    config = SimulationConfig.create_from_cli_args()
    set_seeds(config.seed)
    start = time.process_time()
    simulator = Simulator(config)
    ready = time.process_time()
    simulator.run()
    done = time.process_time()
    print(json.dumps({"setup_s": ready - start, "cpu_s": done - ready, "simulated_s": simulator._time}))
    sys.stdout.flush()
    os._exit(0)  # plots are written at exit otherwise


if __name__ == "__main__":
    main()
