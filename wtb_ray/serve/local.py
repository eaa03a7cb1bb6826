"""The whole stack on this machine in one command: `python -m wtb_ray.serve.local`.

It starts a Ray of its own with dashboard, Serve, and the application; writes `stack.json` into the
data directory once everything is ready; and takes all of it down again on SIGTERM or SIGINT.
"""

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray._private import parameter
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import LoggingConfig

from wtb_ray import cluster
from wtb_ray.model import NAMESPACE
from wtb_ray.serve.app import AppArgs, build
from wtb_ray.settings import Settings

log = logging.getLogger("wtb")

SERVICERS = [
    "wtb_ray.rpc.execution_pb2_grpc.add_ExecutionControlServicer_to_server",
    "wtb_ray.rpc.session_pb2_grpc.add_InteractiveSessionServicer_to_server",
    "wtb_ray.rpc.batch_pb2_grpc.add_BatchTestServicer_to_server",
    "wtb_ray.rpc.audit_pb2_grpc.add_AuditServicer_to_server",
    "wtb_ray.rpc.environments_pb2_grpc.add_EnvironmentsServicer_to_server",
]
OBJECT_STORE_BYTES = 200 * 1024 * 1024


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(
    settings: Settings, *, num_cpus: int | None = None, ray_runs: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Starts Ray, Serve and the application; returns where they are."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    with _agent_on_a_free_port():
        context = ray.init(
            address="local",
            namespace=NAMESPACE,
            num_cpus=num_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=settings.dashboard_port,
            log_to_driver=False,
            configure_logging=False,
        )
    if ray_runs is not None:
        ray_runs()
    log.info("Ray runs")
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=settings.http_host, port=settings.http_port),
        grpc_options=gRPCOptions(port=settings.grpc_port, grpc_servicer_functions=SERVICERS),
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
    )
    log.info("Serve runs")
    serve.run(
        build(AppArgs(settings=settings.model_dump(exclude_unset=True))),
        name="wtb",
        route_prefix="/",
    )
    return {
        "pid": os.getpid(),
        "url": f"http://{settings.http_host}:{settings.http_port}",
        "grpc": f"{settings.http_host}:{settings.grpc_port}",
        "dashboard": f"http://{context.dashboard_url}",
        "ray": context.address_info["address"],
    }


@contextmanager
def _agent_on_a_free_port() -> Iterator[None]:
    """Lets this Ray take jobs beside another one on the machine.

    Jobs go through the dashboard's agent. `ray.init` has no argument for its port, and on the one
    that it takes by itself only the first Ray of a machine has an agent.
    """
    original = parameter.RayParams
    parameter.RayParams = partial(original, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameter.RayParams = original


def stop(settings: Settings) -> None:
    """Takes everything down that `start` started."""
    serve.shutdown()
    cluster.shutdown(settings)
    ray.shutdown()


def _settings(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m wtb_ray.serve.local", description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--http-port", type=int, help="0 takes a free port")
    parser.add_argument("--grpc-port", type=int, help="0 takes a free port")
    parser.add_argument("--dashboard-port", type=int, help="0 takes a free port")
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    for name in ("http_port", "grpc_port", "dashboard_port"):
        if given.get(name) == 0:
            given[name] = free_port()
    return Settings(**given).absolute()


def main(arguments: list[str] | None = None) -> None:
    """Runs the stack until it is told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings = _settings(sys.argv[1:] if arguments is None else arguments)
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    def listen() -> None:
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)

    listen()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    place = settings.data_dir / "stack.json"
    try:
        # Ray puts its own handler of SIGTERM in the place of ours; it aborts the process after 3 s.
        stack = start(settings, ray_runs=listen)
        temporary = place.with_suffix(".tmp")
        temporary.write_text(json.dumps(stack))
        temporary.replace(place)
        log.info("ready: %s", stack["url"])
        ended.wait()
    finally:
        place.unlink(missing_ok=True)
        stop(settings)


if __name__ == "__main__":
    main()
