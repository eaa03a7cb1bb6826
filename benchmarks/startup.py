"""What `serve run configs/dev.yaml` takes: seconds until `/ready`, and memory of everything when idle.

The configuration is a copy with ports and a data directory of its own. Memory is the sum over all
processes, Ray, its dashboard and Postgres included: of resident pages, and of proportional ones, in
which a page that several processes share counts once.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import psutil
import yaml

from benchmarks import common
from wtb_ray.actors import postgres
from wtb_ray.serve.local import free_port

CONFIG: Final = common.HERE.parent / "configs" / "dev.yaml"
LIMIT_S: Final = 35.0
LIMIT_GIB: Final = 3.5
PATIENCE_S: Final = 240.0
SETTLED_S: Final = 10.0

Memory = dict[str, dict[str, float]]
"""MiB by kind of process: processes, rss, pss."""


def run(*, repeats: int = 3) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    starts: list[float] = []
    memory: list[Memory] = []
    for _ in range(repeats):
        with TemporaryDirectory(prefix="wtb-bench-", ignore_cleanup_errors=True) as directory:
            seconds, parts = _once(Path(directory))
        starts.append(seconds)
        memory.append(parts)
    totals = {
        kind: common.median([sum(p[kind] for p in parts.values()) / 1024 for parts in memory])
        for kind in ("rss", "pss")
    }
    rows = [(k, *(f"{v:.0f}" for v in p.values())) for k, p in sorted(memory[-1].items())]
    common.table(("idle", "processes", "RSS MiB", "PSS MiB"), rows)
    print(f"  ready after {' '.join(f'{s:.1f}' for s in starts)} s", flush=True)
    targets = [
        common.Target("ready", common.median(starts), LIMIT_S, unit=" s"),
        common.Target("idle memory (PSS)", totals["pss"], LIMIT_GIB, unit=" GiB"),
        common.Target("idle memory (RSS)", totals["rss"], LIMIT_GIB, unit=" GiB"),
    ]
    return {"ready_s": starts, "memory_mib": memory}, targets


def _once(directory: Path) -> tuple[float, Memory]:
    port = free_port()
    config = _rendered(directory, port)
    began = time.monotonic()
    with _serving(config, directory) as process:
        while not _ready(port):
            assert process.poll() is None, (directory / "serve.log").read_text()[-4000:]
            assert time.monotonic() < began + PATIENCE_S, "never ready"
            time.sleep(0.1)
        seconds = time.monotonic() - began
        time.sleep(SETTLED_S)
        pids = [process.pid, common.postmaster_of(directory / "data" / "postgres")]
        return seconds, _memory([p for pid in pids for p in common.family(pid)])


def _rendered(directory: Path, port: int) -> Path:
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"]["port"] = port
    config["grpc_options"]["port"] = free_port()
    config["applications"][0]["args"]["settings"] = {"data_dir": str(directory / "data")}
    path = directory / "dev.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def _serving(config: Path, directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    serve = Path(sys.executable).with_name("serve")
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled"}
    with (directory / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [str(serve), "run", str(config)],
            env=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
            stdout=log,
            stderr=log,
            cwd=common.HERE.parent,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        postgres.stop(directory / "data" / "postgres")


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _memory(processes: list[psutil.Process]) -> Memory:
    found: Memory = defaultdict(lambda: {"processes": 0, "rss": 0.0, "pss": 0.0})
    for process in processes:
        try:
            memory, kind = process.memory_full_info(), _kind(process)
        except psutil.Error:
            continue
        found[kind]["processes"] += 1
        found[kind]["rss"] += memory.rss / common.MIB
        found[kind]["pss"] += memory.pss / common.MIB
    return dict(found)


def _kind(process: psutil.Process) -> str:
    """A short name of what a process is."""
    title = common.title(process)
    if process.name() == "postgres":
        return "postgres"
    if title.startswith("ray::"):
        return re.split(r"[.\s#]", title)[0]
    for part in (
        "gcs_server",
        "raylet",
        "dashboard/dashboard.py",
        "agent",
        "log_monitor",
        "serve run",
    ):
        if part in title:
            return part.removesuffix(".py").rpartition("/")[2]
    return process.name()
