"""The process of a local worker: says only what matters, ends with its driver, and is otherwise Beam's own."""

import ctypes
import faulthandler
import logging
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run Beam's worker."""
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends its workers
    faulthandler.enable(file=2)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - errors reach the driver by Beam's control channel
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
