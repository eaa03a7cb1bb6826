"""One real local stack for the session: Ray, Serve, embedded Postgres, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.rows import dict_row

from wtb_ray.sdk import WTBTestBench

READY_TIMEOUT_S = 120
SETTINGS = {
    "WTB_LEASE_TTL_S": "3",
    "WTB_RUNNERS_PER_POOL": "2",
    "WTB_ENTRY_TIMEOUT_S": "15",
    "WTB_IDLE_POOL_S": "20",
}


SECRET = "sesame-4711-opens-nothing"
"""The value of `API_TOKEN`, which the stack finds in a mounted file."""


@dataclass
class Stack:
    """The running stack, and its processes as the operating system shows them."""

    url: str
    grpc: str
    dashboard: str
    pid: int
    data_dir: Path
    database: str

    def rows(self, sql: str, params: Any = ()) -> list[dict[str, Any]]:
        """Rows straight from the database, as a witness beside the API; waits while it restarts."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(self.database, row_factory=dict_row, autocommit=True) as conn:
                    return conn.execute(sql.encode(), params).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of this stack whose title contains `title`, e.g. `ray::BatchScheduler`."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, title: str) -> list[int]:
        """SIGKILL to every such process; their ids."""
        killed = []
        for process in self.processes(title):
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)
        return killed

    def postmaster(self) -> int:
        """Process id of the embedded Postgres."""
        pid_file = self.data_dir / "postgres" / "postmaster.pid"
        wait_until(lambda: pid_file.exists() and pid_file.read_text())
        return int(pid_file.read_text().split()[0])


def wait_until(condition: Callable[[], Any], timeout_s: float = 60, every_s: float = 0.1) -> Any:
    """The first true value of the condition.

    Raises:
        AssertionError: It did not become true in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {condition}"
        time.sleep(every_s)


RUNNING = ExitStack()
"""What ends the stack."""


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The local stack, started as a user's `wtb up` starts it.

    `WTB_TEST_STACK` names the data directory of one that runs already, with `SETTINGS` in its
    environment: that spares its start while tests are written.
    """
    with RUNNING:
        if running := os.environ.get("WTB_TEST_STACK"):
            yield _found(Path(running))
        else:
            yield RUNNING.enter_context(_served())


def needs_stack(item: pytest.Item | None) -> bool:
    """Whether a test asks for the stack, itself or through its fixtures."""
    return "stack" in getattr(item, "fixturenames", ())


@contextmanager
def _served() -> Iterator[Stack]:
    with TemporaryDirectory(prefix="wtb-cluster-", ignore_cleanup_errors=True) as directory:
        yield from _serve(Path(directory))


def _found(data_dir: Path) -> Stack:
    """The stack that runs in this directory."""
    where = json.loads((data_dir / "stack.json").read_text())
    return Stack(
        url=where["url"],
        grpc=where["grpc"],
        dashboard=where["dashboard"],
        pid=where["pid"],
        data_dir=data_dir,
        database=f"postgresql://postgres:@/postgres?host={data_dir / 'postgres'}",
    )


def _serve(data_dir: Path) -> Iterator[Stack]:
    (data_dir / "uv.toml").write_text("no-index = true\n")  # tests install their own wheels only
    own = {"UV_CONFIG_FILE": str(data_dir / "uv.toml"), "UV_CACHE_DIR": str(data_dir / "uv-cache")}
    (data_dir / "mounted").mkdir()
    (data_dir / "mounted" / "API_TOKEN").write_text(f"{SECRET}\n")
    own["WTB_SECRETS_DIR"] = str(data_dir / "mounted")
    environment = {**os.environ, **SETTINGS, **own}
    command = [sys.executable, "-m", "wtb_ray.serve.local", "--data-dir", str(data_dir)]
    for port in ("http", "grpc", "dashboard"):
        command += [f"--{port}-port", "0"]
    with (data_dir / "stack.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    place = data_dir / "stack.json"
    try:
        wait_until(lambda: place.exists() or process.poll() is not None, READY_TIMEOUT_S)
        assert place.exists(), (data_dir / "stack.log").read_text()[-4000:]
        yield _found(data_dir)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode == 0, (data_dir / "stack.log").read_text()[-4000:]
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


@pytest.fixture
def bench(stack: Stack) -> Iterator[WTBTestBench]:
    """The SDK on the running stack."""
    with WTBTestBench(stack.url) as found:
        yield found
