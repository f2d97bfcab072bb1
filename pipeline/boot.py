"""The worker of a cluster: what a Flink or Spark worker machine starts for Beam's Python side (``headrace-worker``).

Headrace is installed on every machine of the cluster; a build then names this command behind ``--``::

    --environment_type=PROCESS --environment_config={"command":"/opt/headrace/bin/headrace-worker"}

The cluster gives it an id and the address of Beam's provision service, which knows the rest. Nothing is staged: no
package and no file of the driver arrives here.
"""

import argparse
import faulthandler
import os
import threading
import time
from collections.abc import Mapping, Sequence

_PARENT_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker until its cluster has no more work for it, or is gone."""
    parser = argparse.ArgumentParser("headrace-worker", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--id", required=True, help="what the cluster calls this worker")
    parser.add_argument("--provision_endpoint", required=True, metavar="HOST:PORT", help="Beam's provision service")
    options, _ = parser.parse_known_args(arguments)
    faulthandler.enable(file=2)
    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ |= provisioned(options.id, options.provision_endpoint)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def provisioned(worker: str, endpoint: str) -> Mapping[str, str]:
    """Ask the provision service; gives the environment variables that Beam's worker reads. Raises grpc.RpcError."""
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from google.protobuf import json_format, text_format

    with grpc.insecure_channel(endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(request, timeout=60, metadata=[("worker_id", worker)]).info
    return {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def _end_with(parent: int) -> None:
    """End this process soon after its parent. (The kernel's death signal comes when the parent's *thread* ends.)"""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
