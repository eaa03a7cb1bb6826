"""`wtb up`, `down` and `db`: the local stack and its database."""

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from wtb_ray import errors
from wtb_ray.cli import checks, options, render
from wtb_ray.cli.progress import Steps, steps_progress
from wtb_ray.cli.terminal import answer, program, say
from wtb_ray.sdk import local
from wtb_ray.settings import Settings

app = typer.Typer()
db = typer.Typer(no_args_is_help=True, help="Look after the database.")

LOG_POLL_S: Final = 0.2
LOGGER: Final = " wtb "
"""What stands in the stack's log between the time and a line of its own start."""
PORT: Final = {"min": 0, "max": 65535, "metavar": "PORT"}


@app.command()
def up(
    data_dir: options.DataDir = None,
    http_port: Annotated[
        int | None, typer.Option("--http-port", **PORT, help="0 takes a free one. [default: 8000]")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option("--grpc-port", **PORT, help="0 takes a free one. [default: 9000]")
    ] = None,
    dashboard_port: Annotated[
        int | None,
        typer.Option("--dashboard-port", **PORT, help="0 takes a free one. [default: 8265]"),
    ] = None,
    profile: Annotated[
        local.Profile, typer.Option("--profile", help="prod puts HAProxy in front of Serve.")
    ] = "dev",
    as_json: options.AsJson = False,
) -> None:
    """Start the local stack in the background.

    Returns when it is ready. Starting it again finds the one that runs.

    \b
    Examples:
      wtb up
      wtb up --data-dir /tmp/bench --http-port 0 --grpc-port 0 --dashboard-port 0
    """
    found = options.settings(data_dir=data_dir)
    stack = start(
        found,
        profile,
        http_port=found.http_port if http_port is None else http_port,
        grpc_port=found.grpc_port if grpc_port is None else grpc_port,
        dashboard_port=found.dashboard_port if dashboard_port is None else dashboard_port,
    )
    answer(stack, as_json, places(stack, found.data_dir))


def start(settings: Settings, profile: local.Profile = "dev", **ports: int) -> local.Stack:
    """The running stack, or a new one, with a line for every part that is ready."""
    data_dir = settings.data_dir
    if (stack := local.running(data_dir)) is not None:
        say(f"the stack runs already (pid {stack.pid})")
        return stack
    for name, number in ports.items():
        _refuse_taken(name, number)
    with steps_progress("starting the stack") as steps:
        steps(f"starting the stack in {data_dir.resolve()}")
        with _log_lines(data_dir / "stack.log", steps):
            return local.start(data_dir, profile=profile, **ports)


def _refuse_taken(name: str, number: int) -> None:
    found = checks.port(name.removesuffix("_port"), number, f"--{name.replace('_', '-')}")
    if found.level == "FAIL":
        raise errors.Unavailable(f"port {found.detail}: {found.cure}", field=name, reason="taken")


@contextmanager
def _log_lines(log: Path, steps: Steps) -> Iterator[None]:
    """Shows what the stack's log says of its start while the block runs."""
    ended = threading.Event()
    before = _changed(log)
    thread = threading.Thread(target=_follow, args=(log, before, ended, steps), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(log: Path, before: int, ended: threading.Event, steps: Steps) -> None:
    shown, last = 0, False
    while not last:
        last = ended.wait(LOG_POLL_S)
        steps.wait("starting the stack")
        if _changed(log) == before:  # what the stack before this one wrote
            continue
        lines = [line for line in log.read_text(errors="replace").splitlines() if LOGGER in line]
        for line in lines[shown:]:
            steps(line.partition(LOGGER)[2])
        shown = len(lines)


def _changed(log: Path) -> int:
    return log.stat().st_mtime_ns if log.exists() else 0


def places(stack: local.Stack, data_dir: Path) -> Any:
    """Where the parts of a stack are."""
    return render.facts(
        [
            ("API", f"{stack.url}/api/v1"),
            ("docs", f"{stack.url}/docs"),
            ("gRPC", stack.grpc),
            ("Ray dashboard", stack.dashboard),
            ("data", str(data_dir.resolve())),
            ("stop with", f"{program()} down{_data_dir_option(data_dir)}"),
        ]
    )


def _data_dir_option(data_dir: Path) -> str:
    """What other commands have to be told to find this data directory."""
    default = options.settings().data_dir.resolve() == data_dir.resolve()
    return "" if default else f" --data-dir {shlex.quote(str(data_dir))}"


@app.command()
def down(data_dir: options.DataDir = None) -> None:
    """Stop the local stack; what it stored stays.

    Its Ray and its Postgres end with it. Does nothing when none runs.
    """
    found = options.settings(data_dir=data_dir).data_dir
    stop(found)


def stop(data_dir: Path) -> None:
    """Stops the stack of a data directory and waits for its end."""
    with steps_progress("stopping the stack") as steps:
        steps.wait("stopping the stack")
        stopped = local.stop(data_dir)
        left = _stop_postgres(data_dir.resolve() / "postgres")
        if left and not stopped:
            steps("the stack had died; stopped the Postgres that it left")
        if stopped or left:
            steps(f"stopped; everything is kept in {data_dir.resolve()}")
        else:
            steps(f"no stack runs in {data_dir.resolve()}")


def _stop_postgres(directory: Path) -> bool:
    """Stops an embedded Postgres that still runs: it outlives a stack that was killed.

    Raises:
        WTBError: It could not be stopped.
    """
    if not (directory / "postmaster.pid").exists():
        return False
    command = [sys.executable, "-m", "wtb_ray.actors.postgres", str(directory)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise errors.WTBError(f"Postgres in {directory} did not stop: {reason}", reason="crashed")
    return done.stdout == "stopped"


@db.command()
def upgrade(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", envvar="WTB_DATABASE_URL", help="Postgres URL."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Bring a database to the newest schema.

    Does nothing when it is there already, and is safe while the bench runs. The stack does this itself when it starts.
    """
    if url is None:
        raise typer.BadParameter(
            "name a database or set WTB_DATABASE_URL; the embedded one is upgraded by `wtb up`",
            param_hint="URL",
        )
    outcome = _migrated(url)
    if "error" in outcome:
        error = outcome["error"]
        raise errors.DatabaseUnavailable(" ".join(error["message"].split()), **error["details"])
    applied = outcome["applied"]
    names = ", ".join(map(str, applied))
    text = f"applied migrations {names}" if applied else "the schema is the newest"
    answer(outcome, as_json, text)


def _migrated(url: str) -> dict[str, Any]:
    """What the migration says, made by a process of its own: a client never opens the database."""
    done = subprocess.run(
        [sys.executable, "-m", "wtb_ray.db"],
        env={**os.environ, "WTB_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        outcome: dict[str, Any] = orjson.loads(done.stdout)
    except orjson.JSONDecodeError as e:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise errors.WTBError(f"the migration failed: {reason}", reason="crashed") from e
    return outcome
