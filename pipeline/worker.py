"""The process of a local worker: says only what matters, ends with its driver, and is otherwise Beam's own."""

import ctypes
import logging
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run Beam's worker."""
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
