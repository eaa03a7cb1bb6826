"""What belongs to one run and is looked up from inside its nodes: params, workspace, caches.

It is a context variable: right for any number of runs at once, in coroutines and in the threads that
sync nodes run in. Outside a run params are empty and the workspace is the current directory, so that
a graph also works without the bench.
"""

import asyncio
import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Protocol

from wtb_ray import errors
from wtb_ray.model import RUNNER_ENV

SCHEME: Final = "workspace:"
"""What the storable form of a path in a workspace begins with."""
WORKSPACE_ENV: Final = "WTB_WORKSPACE"
"""Environment variable: the workspace of code that runs outside a run, or alone in a process."""
INPUT: Final = "input"
OUTPUT: Final = "output"

AnyPath = str | os.PathLike[str]


class Workspace(os.PathLike[str]):
    """The directory of one execution, as its nodes see it.

    It is a path itself: `open(workspace() / "notes.txt", "w")`. Files belong here, and nowhere else:
    executions run side by side in one process, and another process may go on with this one. A path of
    it must not stand in state, since a fork or another host has another directory: `ref` gives the
    form that can be stored, `resolve` takes it back.
    """

    __slots__ = ("_asked", "_lock", "_make", "_over", "_root", "inputs")

    def __init__(self, root: str, *, make: Callable[[], None] | None = None) -> None:
        """A workspace over an absolute directory.

        Args:
            root: The directory.
            make: Makes the directory when it is first asked for; None: it is there.
        """
        self._root = root
        self._make = make
        self.inputs: str | None = None
        """Where links below `input/` may lead, outside the directory; for the bench."""
        self._lock = threading.Lock()
        self._asked = False
        self._over = False

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self._root)

    @property
    def input(self) -> Path:
        """Where the project's input files are, read only."""
        return Path(self._root, INPUT)

    @property
    def output(self) -> Path:
        """Where results go; the directory is made if it is not there."""
        path = Path(self._root, OUTPUT)
        path.mkdir(exist_ok=True)
        return path

    def __truediv__(self, relative: AnyPath) -> Path:
        """A path below the workspace; what leads out of it by its name is refused."""
        return Path(self._root, _relative(_named(relative)))

    def __fspath__(self) -> str:
        return self._root

    def __str__(self) -> str:
        return self._root

    def __repr__(self) -> str:
        return f"Workspace({self._root!r})"

    def ref(self, path: AnyPath) -> str:
        """The form of a path that may stand in state: `"workspace:relative/path"`.

        Args:
            path: A path in the workspace, absolute or relative to it.

        Raises:
            InvalidRequest: It is not in the workspace, or its name is no UTF-8.
        """
        name = _named(path)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise _refused(name, "not_utf8", "has a name that is no UTF-8") from None
        relative = self._below(os.path.join(self._root, name))
        if relative is None:
            raise _refused(name, "outside", f"is not in the workspace {self._root}")
        self.resolve(relative)
        return SCHEME + relative

    def resolve(self, ref: AnyPath) -> Path:
        """The path that a `ref`, or a path relative to the workspace, stands for here.

        Raises:
            InvalidRequest: It is absolute, has a `..`, or leads out of the workspace through a link.
        """
        name = _named(ref)
        path = os.path.join(self._root, _relative(name))
        real = os.path.realpath(path)
        homes = (os.path.realpath(self._root), self.inputs)
        if not any(home is not None and _within(real, home) for home in homes):
            raise _refused(name, "escapes", "leads out of the workspace through a link")
        return Path(path)

    def commit(self) -> None:
        """Asks for the files to be kept with the checkpoint that this super-step ends in.

        It matters where `commit_on="manual"`, and does nothing outside the bench. From any thread.

        Raises:
            Conflict: The run of this workspace is over.
        """
        self._check_open()
        self._asked = True

    def take_commit(self) -> bool:
        """Whether a commit was asked for since this was last called; for the bench."""
        if not self._asked:
            return False
        # Whoever asks from here on is served by the snapshot that follows.
        self._asked = False
        return True

    def ready(self) -> "Workspace":
        """Itself, with the directory made; for the bench.

        Raises:
            Conflict: The run of this workspace is over.
        """
        if self._make is not None:
            with self._lock:
                if self._make is not None:
                    self._make()
                    self._make = None
        self._check_open()
        return self

    def end(self) -> None:
        """From now on it is refused to code of a run that is over; for the bench."""
        with self._lock:
            self._over, self._make = True, None

    def _check_open(self) -> None:
        if self._over:
            raise errors.Conflict(
                f"the run that the workspace {self._root} belonged to is over",
                reason="run_is_over",
                path=self._root,
            )

    def _below(self, path: str) -> str | None:
        """The path relative to the workspace, by its name or by where it really is."""
        if ".." not in path.split(os.sep):
            path = os.path.normpath(path)
            if _within(path, self._root):
                return os.path.relpath(path, self._root)
        root, parent = os.path.realpath(self._root), os.path.realpath(os.path.dirname(path))
        path = os.path.join(parent, os.path.basename(path))
        return os.path.relpath(path, root) if _within(path, root) else None


def workspace() -> Workspace:
    """The directory that the running execution has for itself.

    Right under any number of executions at once, in coroutines, in sync nodes, and in threads that
    are started with a copy of the context (`contextvars.copy_context().run`, `asyncio.to_thread`).
    Where nothing is configured the directory is made by the first call.

    Outside the bench it is the directory that `WTB_WORKSPACE` names, else the current one, so that
    the same graph runs under pytest or in a script.

    Raises:
        Conflict: The run is over, or this thread of a runner belongs to no run.
    """
    context = _CONTEXT.get()
    if context is not None and context.workspace is not None:
        return context.workspace.ready()
    named = os.environ.get(WORKSPACE_ENV)
    if named is None and RUNNER_ENV in os.environ:
        raise errors.Conflict(
            "this thread belongs to no execution: start it with contextvars.copy_context().run, or"
            f" give a process of its own {WORKSPACE_ENV} in its environment",
            reason="no_run",
        )
    return Workspace(os.path.abspath(named or os.curdir))


@dataclasses.dataclass(frozen=True)
class Context:
    """What belongs to one run and is looked up from inside its nodes."""

    execution_id: str
    params: Mapping[str, Mapping[str, Any]]
    cache_scope: str
    workspace: Workspace | None = None
    calls: "Calls | None" = None
    limits: "Limits | None" = None


class Limits(Protocol):
    """Where a run takes from limits; see `wtb_ray.limit`."""

    loop: asyncio.AbstractEventLoop
    """Where `take` is to be awaited."""

    async def take(self, name: str, amounts: Mapping[str, float]) -> Callable[[], None]:
        """Waits for its turn; gives what to call, from any thread, when it is done.

        Raises:
            UnknownLimit: There is no such limit.
            LimitUnmeetable: More is asked for than it ever has.
        """
        ...


class Calls:
    """How many sync nodes of a run are at work in threads; a cancelled run does not end them."""

    __slots__ = ("_lock", "_waits", "environments", "over", "running", "used", "waited")

    def __init__(self) -> None:
        self.running = 0
        self.over = False
        """The run is over: what its threads wait for is not for them any more."""
        self.waited: dict[str, float] = {}
        """Seconds in which tasks of the root graph waited for limits, by their ids."""
        self._waits: dict[str, tuple[int, float]] = {}
        self.environments: dict[str, str] = {}
        """Digests of what nodes ran in that ran apart, by name."""
        self.used: dict[str, dict[str, float]] = {}
        """What tasks of the root graph have used so far, by their ids."""
        self._lock = threading.Lock()

    def spend(self, task_id: str, amounts: Mapping[str, float]) -> None:
        """Adds to what a task has used; from any thread."""
        with self._lock:
            used = self.used.setdefault(task_id, {})
            for name, amount in amounts.items():
                used[name] = used.get(name, 0.0) + amount

    def begin_wait(self, task_id: str) -> None:
        """A task waits for a limit, once more; from any thread. Waits at the same time count once."""
        with self._lock:
            count, since = self._waits.get(task_id, (0, 0.0))
            self._waits[task_id] = (count + 1, since if count else time.monotonic())

    def end_wait(self, task_id: str) -> None:
        """One such wait has ended."""
        with self._lock:
            count, since = self._waits.pop(task_id)
            if count > 1:
                self._waits[task_id] = (count - 1, since)
            else:
                self.add_wait(task_id, time.monotonic() - since)

    def add_wait(self, task_id: str, seconds: float) -> None:
        """Adds to the time that a task has waited."""
        self.waited[task_id] = self.waited.get(task_id, 0.0) + seconds

    def unstored(self) -> dict[str, float]:
        """The sums of what tasks have used that stands with no step."""
        total: dict[str, float] = {}
        with self._lock:
            for used in self.used.values():
                for name, amount in used.items():
                    total[name] = total.get(name, 0.0) + amount
        return total

    def add(self, count: int) -> None:
        """Counts one more, or one less."""
        with self._lock:
            self.running += count


_CONTEXT: ContextVar[Context | None] = ContextVar("wtb_run", default=None)


def running() -> Context | None:
    """The run that this code belongs to; for the bench."""
    return _CONTEXT.get()


def params() -> dict[str, Any]:
    """The parameters of the variant that runs in this node; empty outside a node or without any."""
    context = _CONTEXT.get()
    if context is None:
        return {}
    return dict(context.params.get(current_node() or "", {}))


def usage(**amounts: float) -> None:
    """Adds to what the running node has used: `usage(input_tokens=812, output_tokens=40, cost=0.0031)`.

    The names are free. What a node used in all of its attempts stands with its step, as `usage` of the
    node; that of a step that is cut off by a crash is lost with it. Right from any thread that has the
    node's context; outside the bench it does nothing.

    Raises:
        InvalidRequest: An amount is negative, or no number.
    """
    for name, amount in amounts.items():
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not (number and math.isfinite(amount) and amount >= 0):
            raise errors.InvalidRequest(
                f"{name}={amount!r} is no amount", field=name, reason="not a number from 0 on"
            )
    context, task_id = _CONTEXT.get(), current_task()
    if context is not None and context.calls is not None and task_id:
        context.calls.spend(task_id, amounts)


def current_task() -> str:
    """Id of the task of the root graph that this code runs in; empty outside."""
    # The first part of the namespace is that of the root graph: its node, and the id of its task.
    return _namespace().partition("|")[0].partition(":")[2]


def current_node() -> str | None:
    """Path of the node that this code runs in (`outer/inner` in a subgraph), None outside."""
    parts = [part.partition(":")[0] for part in _namespace().split("|") if not part.isdigit()]
    return "/".join(parts) or None


def _namespace() -> str:
    """LangGraph's name of the place that this code runs in; empty outside a graph."""
    from langgraph.config import get_config  # noqa: PLC0415  # half a second for who runs no graphs

    try:
        return str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    except RuntimeError:  # not inside a graph
        return ""


@contextmanager
def counted() -> Iterator[None]:
    """Counts the code inside among the sync nodes of its run."""
    context = _CONTEXT.get()
    calls = context.calls if context is not None else None
    if calls is None:
        yield
        return
    calls.add(1)
    try:
        yield
    finally:
        calls.add(-1)


@contextmanager
def entered(context: Context) -> Iterator[None]:
    """Makes this the run of all code inside."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def cache_scope(fingerprint: str) -> str:
    """Where a node's cache entries lie: repetitions must not be copies of each other."""
    context = _CONTEXT.get()
    return f"{context.cache_scope if context else ''}:{fingerprint}:"


def _relative(name: str) -> str:
    """A path as it is, if it is relative and does not lead upwards."""
    if os.path.isabs(name):
        raise _refused(name, "absolute", "is absolute")
    if ".." in name.split(os.sep):
        raise _refused(name, "parent", "has a '..'")
    return os.path.normpath(name)


def _named(path: AnyPath) -> str:
    name = os.fspath(path).removeprefix(SCHEME)
    if "\0" in name:
        raise _refused(name, "nul", "has a NUL")
    return name


def _within(path: str, home: str) -> bool:
    return path == home or path.startswith(home.rstrip(os.sep) + os.sep)


def _refused(path: str, reason: str, what: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(
        f"the path {path!a} {what}", field="path", path=ascii(path)[1:-1], reason=reason
    )
