"""The stack on this machine: is one running in this data directory, start one, stop it.

The stack is a process of its own (`python -m wtb_ray.serve.local`) that outlives who started it and
writes `stack.json` when it is ready. Two processes that start at once get the same one.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import httpx
import psutil
from pydantic import BaseModel, ValidationError

from wtb_ray import errors
from wtb_ray.model import RUNNER_ENV
from wtb_ray.settings import Settings

Profile = Literal["dev", "prod"]
PROFILES: Final[dict[str, dict[str, str]]] = {
    "dev": {},
    "prod": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_LOG_TO_STDERR": "0"},
}
"""What has to be in the environment before Ray starts."""

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
_POLL_S = 0.1


class Stack(BaseModel):
    """A running stack, as its `stack.json` describes it."""

    url: str
    grpc: str
    dashboard: str
    pid: int


def running(data_dir: Path) -> Stack | None:
    """The stack of this data directory, if it is there and answers."""
    stack = _recorded(data_dir)
    return stack if stack is not None and _answers(stack.url) else None


def start(
    data_dir: Path,
    timeout_s: float = START_TIMEOUT_S,
    profile: Profile = "dev",
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    dashboard_port: int = 0,
) -> Stack:
    """The running stack of this data directory, or a new one; port 0 takes a free one.

    Raises:
        Unavailable: It ended, or was not ready in time; has the end of its log.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    with _only_one(data_dir):
        if (recorded := _recorded(data_dir)) is not None:
            return _wait_answer(recorded)
        log = data_dir / "stack.log"
        ports = {"http": http_port, "grpc": grpc_port, "dashboard": dashboard_port}
        process = _spawn(data_dir, log, ports, PROFILES[profile])
        try:
            return _wait_ready(process, data_dir, log, timeout_s)
        except BaseException:
            _end(process)
            raise


def stop(data_dir: Path, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop the stack of this data directory and wait for its end; False when none runs.

    Raises:
        Unavailable: It has not ended in time; it is left alone.
    """
    stack = _recorded(data_dir)
    if stack is None:
        return False
    try:
        process = psutil.Process(stack.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout_s)
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired as e:
        raise errors.Unavailable(
            f"the stack (pid {stack.pid}) has not ended {timeout_s:.0f} s after SIGTERM",
            reason="still_stopping",
            pid=stack.pid,
        ) from e
    return True


def find_url(url: str | None) -> str:
    """Where the bench is: as given, `WTB_URL`, or the local stack, started if it does not run.

    Raises:
        ConfigurationError: The address is not an HTTP one.
        Unavailable: The local stack did not start.
    """
    url = url or os.environ.get("WTB_URL") or None
    if url is None:
        return _local_url(Settings().data_dir)
    if not url.startswith(("http://", "https://")):
        raise errors.ConfigurationError(
            f"{url!r} is no address of a bench: it begins with http:// or https://",
            field="url",
            reason="scheme",
        )
    return url.rstrip("/").removesuffix("/api/v1")


def refuse_in_runner() -> None:
    """Refuse a bench in a process that only imports the user's code.

    Raises:
        Refused: This is such a process.
    """
    if os.environ.get(RUNNER_ENV):
        raise errors.Refused(
            "this code is being imported by the bench, and must not use a bench itself: guard your"
            " script with `if __name__ == '__main__':`",
            reason="in_runner",
        )


def _local_url(data_dir: Path) -> str:
    stack = running(data_dir)
    if stack is None:
        sys.stderr.write(
            f"starting the local stack in {data_dir.resolve()}; `wtb down` will stop it\n"
        )
        stack = start(data_dir)
    return stack.url


def _recorded(data_dir: Path) -> Stack | None:
    """What `stack.json` says, if the process that wrote it still runs."""
    place = data_dir / "stack.json"
    try:
        written = place.stat().st_mtime
        stack = Stack.model_validate_json(place.read_bytes())
        process = psutil.Process(stack.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        born = process.create_time()
    except (FileNotFoundError, ValidationError, psutil.NoSuchProcess):
        return None
    # A process born after the file took over the pid of a stack that is gone.
    return stack if born <= written + 1 else None


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v1/health", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _spawn(
    data_dir: Path, log: Path, ports: dict[str, int], environment: dict[str, str]
) -> "subprocess.Popen[bytes]":
    options = [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
    command = [sys.executable, "-m", "wtb_ray.serve.local", "--data-dir", str(data_dir), *options]
    with log.open("wb") as out:
        return subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def _wait_answer(stack: Stack) -> Stack:
    """A stack that is there but busy gets some time; a second one beside it would do harm."""
    for _ in range(5):
        if _answers(stack.url):
            return stack
        time.sleep(1)
    raise errors.Unavailable(
        f"the local stack (pid {stack.pid}) does not answer at {stack.url}: stop it with `wtb down`",
        reason="no_answer",
        pid=stack.pid,
        url=stack.url,
    )


def _wait_ready(
    process: "subprocess.Popen[bytes]", data_dir: Path, log: Path, timeout_s: float
) -> Stack:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            raise _not_started(f"ended with code {code} before it was ready", log)
        stack = running(data_dir)
        if stack is not None and stack.pid == process.pid:
            return stack
        time.sleep(_POLL_S)
    raise _not_started(f"was not ready within {timeout_s:.0f} s", log)


def _not_started(what: str, log: Path) -> errors.Unavailable:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return errors.Unavailable(
        f"the local stack {what}; the end of {log}:\n" + "\n".join(lines),
        reason="not_started",
        log=str(log),
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a stack that did not get ready, and all that it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Whoever comes second waits, and then finds the stack that the first one started."""
    with (data_dir / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
