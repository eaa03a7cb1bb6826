"""What the benchmarks share: a Postgres, a stack, processor time, tables, and results as JSON."""

import asyncio
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from wtb_ray.actors.postgres import EmbeddedPostgres
from wtb_ray.db import migrate
from wtb_ray.model import ScorerSpec
from wtb_ray.sdk import WorkflowProject, WTBTestBench, local

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
BENCH: Final = "whole bench"
MIB: Final = 1024 * 1024
PACKAGES: Final = ("ray", "langgraph", "langgraph-checkpoint-postgres", "psycopg")


# --- processes ---


def processor_s(processes: Iterable[psutil.Process]) -> float:
    """Processor time that the processes, and the children they have outlived, have used so far."""
    total = 0.0
    for process in processes:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue
    return total


def memory_mib(processes: Iterable[psutil.Process]) -> float:
    """What the processes hold of their own, in MiB: shared pages count by their share."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / MIB


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def postmaster_of(directory: Path) -> int:
    """Process id of the Postgres whose data lies there."""
    return int((directory / "postmaster.pid").read_text().split()[0])


# --- Postgres ---


class Server:
    """A Postgres set up exactly as the bench's embedded one, with a database for each contender."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._postgres = EmbeddedPostgres(str(directory))
        self._url = asyncio.run(self._postgres.url())

    def database(self, name: str) -> str:
        """The URL of a new database with all tables."""
        with self._connection() as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = make_conninfo(self._url, dbname=name)
        migrate(url)
        return url

    def settle(self) -> None:
        """Writes everything out, so that no contender pays for the one before."""
        with self._connection() as conn:
            conn.execute("CHECKPOINT")

    def processor_s(self) -> float:
        return processor_s(family(postmaster_of(self.directory)))

    def facts(self) -> dict[str, str]:
        names = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "wal_level")
        with self._connection() as conn:
            return {name: conn.execute(f"SHOW {name}".encode()).fetchone()[0] for name in names}  # type: ignore[index]

    def stop(self) -> None:
        asyncio.run(self._postgres.stop())

    def _connection(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._url, autocommit=True)


@contextmanager
def postgres() -> Iterator[Server]:
    """A server of its own in a directory that is removed afterwards."""
    with TemporaryDirectory(prefix="wtb-bench-pg-", ignore_cleanup_errors=True) as directory:
        server = Server(Path(directory) / "postgres")
        try:
            yield server
        finally:
            server.stop()


# --- the stack ---


class Stack:
    """A running local stack, with the SDK on it."""

    def __init__(self, found: local.Stack, data_dir: Path):
        self.pid = found.pid
        self.data_dir = data_dir
        self.bench = WTBTestBench(found.url)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The stack's processes with `name` in their titles; its Postgres is no child of it."""
        pids = [self.pid]
        if (self.data_dir / "postgres" / "postmaster.pid").exists():
            pids.append(postmaster_of(self.data_dir / "postgres"))
        return [p for pid in pids for p in family(pid) if name in title(p)]

    def postgres(self) -> list[psutil.Process]:
        """The processes of its Postgres."""
        return family(postmaster_of(self.data_dir / "postgres"))

    def without_postgres(self) -> list[psutil.Process]:
        """All others."""
        return family(self.pid)

    def register(self, name: str, entry: str) -> None:
        """Registers a graph of `benchmarks.graphs`, uploaded as any user's code is."""
        self.bench.register_project(WorkflowProject(name=name, graph_factory=entry, root=HERE))

    def warm(self, project: str, runners: int) -> None:
        """Runs batches until all runners have their share, and checks what comes out."""
        while len(self.processes("ray::VariantRunner")) < runners:
            self.batch(project, 256)
        self.batch(project, 256)
        (row,) = self.last.leaderboard().rows
        assert row.metrics[0].mean == 1.0, row

    def idle_share(self, seconds: float = 5.0) -> float:
        """How many processors the stack keeps busy while it has nothing to do."""
        processes = self.processes()
        before = processor_s(processes)
        time.sleep(seconds)
        return (processor_s(processes) - before) / seconds

    def batch(self, project: str, cells: int, timeout_s: float = 600) -> float:
        """Runs a batch with one exact scorer; seconds from when it was accepted until it was complete.

        Raises:
            AssertionError: A cell was not done.
        """
        cases = [{"id": f"c{i}", "input": {"x": i}, "expected": i} for i in range(cells)]
        batch = self.bench.run_batch_test(
            project=project,
            variant_matrix=[{}],
            test_cases=cases,
            scorers=[ScorerSpec(name="exact", args={"field": "x"})],
            wait=False,
        )
        self.last = batch
        ended = batch.wait(timeout=timeout_s).info
        assert ended.counts == {"DONE": cells}, ended.counts
        assert ended.ended_at is not None
        return (ended.ended_at - ended.created_at).total_seconds()


@contextmanager
def stack(**settings: object) -> Iterator[Stack]:
    """A local stack on free ports, with these settings, started as `wtb up` starts it."""
    given = {f"WTB_{name.upper()}": str(value) for name, value in settings.items()}
    with (
        TemporaryDirectory(prefix="wtb-bench-", ignore_cleanup_errors=True) as directory,
        environment(given),
    ):
        data_dir = Path(directory)
        found = local.start(data_dir)
        try:
            yield Stack(found, data_dir)
        finally:
            local.stop(data_dir)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that hold inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def title(process: psutil.Process) -> str:
    """What a process calls itself; nothing once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# --- results ---


@dataclass(frozen=True)
class Target:
    """A number that the design promises."""

    what: str
    value: float
    limit: float
    at_least: bool = False
    unit: str = ""
    later: bool = False
    """Promised for the finished bench; missing it does not fail a run yet."""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "met" if self.met else "not yet" if self.later else "MISSED"
        return (
            f"{self.what}: {self.value:.2f}{self.unit} ({sign} {self.limit:g}{self.unit}) {verdict}"
        )


def machine() -> dict[str, Any]:
    """Where and under what load the numbers were taken."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": [round(load, 2) for load in os.getloadavg()],
        **{name: version(name) for name in PACKAGES},
    }


def report(name: str, result: Mapping[str, Any], targets: Sequence[Target]) -> bool:
    """Prints the targets and writes all of it to `results/{name}.json`; whether all were met."""
    for target in targets:
        print(f"  {target}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    met = [{**asdict(target), "met": target.met} for target in targets]
    body = {"machine": machine(), **result, "targets": met}
    (RESULTS / f"{name}.json").write_text(json.dumps(body, indent=1))
    return all(target.met or target.later for target in targets)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints columns: the first to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  " + "  ".join(cells), flush=True)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
