"""Progress of long work on stderr: a live bar in a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from wtb_ray import api
from wtb_ray.cli.render import span
from wtb_ray.cli.terminal import stderr

LINE_EVERY_PERCENT: Final = 10
LINE_EVERY_S: Final = 15.0


class Watcher(Protocol):
    """Gets every progress report of a batch."""

    def __call__(self, progress: api.Progress) -> None: ...


@contextmanager
def batch_progress(title: str) -> Iterator[Watcher]:
    """A bar over the cells of a batch, fed by calling what this gives."""
    console = stderr()
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", style="dim"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, pace="")

        def update(progress: api.Progress) -> None:
            bar.update(
                task, total=progress.total, completed=progress.finished, pace=_pace(progress)
            )

        yield update


def _pace(progress: api.Progress) -> str:
    parts = []
    if progress.rate:
        parts.append(f"{progress.rate:.1f} cells/s")
    if progress.remaining_s and progress.finished < progress.total:
        parts.append(f"{span(progress.remaining_s)} to go")
    if failed := progress.counts.get("FAILED"):
        parts.append(f"{failed} failed")
    return ", ".join(parts)


class Lines:
    """Prints a line when another tenth is done, the status changes, or it has been quiet for long."""

    def __init__(self, console: Console):
        self._console = console
        self._percent = 0.0
        self._status = ""
        self._at = 0.0

    def __call__(self, progress: api.Progress) -> None:
        now = time.monotonic()
        due = (
            progress.status != self._status
            or progress.percent >= self._percent + LINE_EVERY_PERCENT
            or now >= self._at + LINE_EVERY_S
        )
        if not due:
            return
        self._percent, self._status, self._at = progress.percent, progress.status, now
        pace = _pace(progress)
        text = (
            f"batch {progress.id} {progress.status.lower()}:"
            f" {progress.finished} of {progress.total} cells ({progress.percent:.0f} %)"
        )
        self._console.print(f"{text}, {pace}" if pace else text, soft_wrap=True)


@contextmanager
def steps_progress(title: str) -> Iterator["Steps"]:
    """A line for each thing done, below a spinner that shows what is being waited for."""
    console = stderr()
    if not console.is_terminal:
        yield Steps(console)
        return
    with console.status(title) as status:
        yield Steps(console, status.update)


class Steps:
    """Reports what has been done, with the time since the start."""

    def __init__(self, console: Console, waiting: "Waiting | None" = None):
        self._console = console
        self._waiting = waiting
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        """Prints a finished step."""
        self._console.print(f"{time.monotonic() - self._start:6.1f} s  {text}", soft_wrap=True)

    def wait(self, text: str) -> None:
        """Shows what is being waited for, and since when, only in a terminal."""
        if self._waiting is not None:
            self._waiting(f"{time.monotonic() - self._start:6.1f} s  {text}")


class Waiting(Protocol):
    def __call__(self, status: str) -> None: ...
