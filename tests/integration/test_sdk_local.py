"""The local stack as the SDK finds, starts and stops it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from wtb_ray import errors
from wtb_ray.sdk import WTBTestBench, local

SLEEPER = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"

Record = Callable[[int], Path]


class Healthy(BaseHTTPRequestHandler):
    """Answers `/health` and an empty list of projects."""

    def do_GET(self) -> None:
        body = b'{"items": []}' if "workflows" in self.path else b'{"status": "ok"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def record(tmp_path: Path, address: str) -> Record:
    """Writes the `stack.json` of a process."""

    def write(pid: int) -> Path:
        stack = {"url": address, "grpc": "127.0.0.1:1", "dashboard": "http://127.0.0.1:2"}
        (tmp_path / "stack.json").write_text(json.dumps({**stack, "pid": pid, "ray": "later"}))
        return tmp_path

    return write


@pytest.fixture
def process() -> Iterator[Callable[[str], int]]:
    """Starts a Python process and gives its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> int:
        p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        started.append(p)
        if "print" in code:
            assert p.stdout is not None
            p.stdout.readline()
        return p.pid

    yield start
    for p in started:
        p.kill()
        p.wait()
        assert p.stdout is not None
        p.stdout.close()


def test_a_stack_that_runs_is_found(record: Record, address: str) -> None:
    data_dir = record(os.getpid())
    stack = local.running(data_dir)
    assert stack is not None
    assert (stack.url, stack.pid) == (address, os.getpid())
    assert local.start(data_dir) == stack


def test_a_bench_without_url_attaches_to_it(
    record: Record, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WTB_DATA_DIR", str(record(os.getpid())))
    monkeypatch.delenv("WTB_URL", raising=False)
    with WTBTestBench() as bench:
        assert bench.url == address
        assert bench.list_projects() == []


@pytest.mark.parametrize("text", ["", "{", '{"url": 1}'])
def test_no_readable_record_is_no_stack(tmp_path: Path, text: str) -> None:
    assert local.running(tmp_path) is None
    (tmp_path / "stack.json").write_text(text)
    assert local.running(tmp_path) is None
    assert local.stop(tmp_path) is False


def test_a_stack_that_was_killed_is_none(record: Record, process: Callable[[str], int]) -> None:
    pid = process("pass")
    psutil.Process(pid).wait()
    data_dir = record(pid)
    assert local.running(data_dir) is None
    assert local.stop(data_dir) is False


def test_another_process_with_the_same_pid_is_left_alone(
    record: Record, process: Callable[[str], int]
) -> None:
    pid = process(SLEEPER)
    data_dir = record(pid)
    os.utime(data_dir / "stack.json", (1, 1))  # written long before this process began
    assert local.running(data_dir) is None
    assert local.stop(data_dir) is False
    assert psutil.pid_exists(pid)


def test_stop_waits_for_the_end(record: Record, process: Callable[[str], int]) -> None:
    pid = process(SLEEPER)
    data_dir = record(pid)
    assert local.stop(data_dir) is True
    assert local.running(data_dir) is None


def test_a_stack_that_does_not_end_is_named(record: Record, process: Callable[[str], int]) -> None:
    pid = process(STUBBORN)
    with pytest.raises(errors.Unavailable, match=f"pid {pid}"):
        local.stop(record(pid), timeout_s=0.2)


STAND_IN = """
import json, os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args): ...

arguments = sys.orig_argv[sys.orig_argv.index("-m") + 1:]
place = Path(arguments[2])
server = HTTPServer(("127.0.0.1", 0), Healthy)
(place / "started").open("a").write("x")
(place / "how.json").write_text(json.dumps([arguments, os.environ.get("RAY_SERVE_ENABLE_HA_PROXY")]))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
url = f"http://127.0.0.1:{server.server_port}"
stack = {"url": url, "grpc": "", "dashboard": "", "pid": os.getpid()}
(place / "part").write_text(json.dumps(stack))
(place / "part").replace(place / "stack.json")
server.serve_forever()
"""
"""Stands in for `wtb_ray.serve.local`, whose real start is tested with Ray: same file, same signal."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Lets every Python process that starts run this code instead; gives a data directory."""

    def use(code: str) -> Path:
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return tmp_path / "data"

    return use


def test_a_stack_is_started_once_and_outlives_its_starter(
    stand_in: Callable[[str], Path],
) -> None:
    data_dir = stand_in(STAND_IN)
    with ThreadPoolExecutor(3) as pool:
        stacks = list(pool.map(lambda _: local.start(data_dir, 30, "prod", http_port=8123), "abc"))
    try:
        assert stacks[0] == stacks[1] == stacks[2] == local.running(data_dir)
        assert (data_dir / "started").read_text() == "x"
        assert os.getsid(stacks[0].pid) == stacks[0].pid
        ports = ["--http-port", "8123", "--grpc-port", "0", "--dashboard-port", "0"]
        command = ["wtb_ray.serve.local", "--data-dir", str(data_dir), *ports]
        assert json.loads((data_dir / "how.json").read_text()) == [command, "1"]
    finally:
        assert local.stop(data_dir) is True
    assert local.running(data_dir) is None


def test_a_stack_that_cannot_start_shows_its_log(stand_in: Callable[[str], Path]) -> None:
    data_dir = stand_in("import os; os.write(2, b'out of luck'); os._exit(3)")
    with pytest.raises(errors.Unavailable, match=r"ended with code 3 (.|\n)*out of luck") as e:
        local.start(data_dir)
    assert e.value.details == {"reason": "not_started", "log": str(data_dir / "stack.log")}


def test_a_stack_that_is_not_ready_in_time_is_ended(stand_in: Callable[[str], Path]) -> None:
    data_dir = stand_in(f"import os; os.write(2, str(os.getpid()).encode()); {SLEEPER}")
    with pytest.raises(errors.Unavailable, match="was not ready within 1 s"):
        local.start(data_dir, timeout_s=1)
    assert not psutil.pid_exists(int((data_dir / "stack.log").read_text()))
