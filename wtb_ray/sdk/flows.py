"""What the bench does in several calls, as generators without I/O.

A flow yields a `Call` and gets its answer, or a `Pause` or `Fetch` and is resumed after it. The sync
and the async bench run the same flows; only how they wait differs.
"""

import inspect
import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from wtb_ray import api, cases, control, errors
from wtb_ray.file_entries import FileChange, FileEntry
from wtb_ray.model import Batch, Budget, Case, ProjectSpec, ProjectVersion, ScorerSpec, digest
from wtb_ray.model import Execution as ExecutionInfo
from wtb_ray.scoring import Scorer
from wtb_ray.sdk import calls
from wtb_ray.sdk.bundle import Code
from wtb_ray.sdk.calls import Call
from wtb_ray.sdk.downloads import Download, Folder
from wtb_ray.sdk.project import WorkflowProject
from wtb_ray.sdk.views import BatchView, Execution
from wtb_ray.states import TERMINAL_BATCH, TERMINAL_EXECUTION, ExecutionStatus


@dataclass(frozen=True)
class Pause:
    """Nothing is to be done for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Fetch:
    """A file to be downloaded piece by piece."""

    call: Call[bytes]
    download: Download


Answer = TypeVar("Answer")
Item = TypeVar("Item")
Model = TypeVar("Model", bound=BaseModel)
Flow = Generator[Call[Any] | Pause | Fetch, Any, Answer]

AnyScorer = str | ScorerSpec | Scorer
AnyCases = str | Path | Iterable[Case | dict[str, Any]]
OnProgress = Callable[[api.Progress], None]

_RESTS: Final = ExecutionStatus.PAUSED, *TERMINAL_EXECUTION


class RunOptions(TypedDict, total=False):
    """What else an execution may be given."""

    version: str
    recursion_limit: int
    priority: int
    deadline_s: float


class BatchOptions(RunOptions, total=False):
    """What else a batch may be given."""

    node_errors: str
    share_prefix: bool
    interrupts: str
    budget: Budget | dict[str, float]


def ask(call: Call[Answer]) -> Flow[Answer]:
    """One call."""
    answer: Answer = yield call
    return answer


def listed(
    page: Callable[[str | None, int], Call[api.Page[Item]]], limit: int | None = None
) -> Flow[list[Item]]:
    """All items of a paged list, or the first `limit`."""
    items: list[Item] = []
    after: str | None = None
    while limit is None or len(items) < limit:
        room = calls.PAGE if limit is None else min(calls.PAGE, limit - len(items))
        part = yield from ask(page(after, room))
        items += part.items
        after = part.next
        if after is None:
            break
    return items


def register(
    spec: Callable[[str | None], ProjectSpec], bundle: bytes | None
) -> Flow[ProjectVersion]:
    """Upload the bundle if the bench does not have it, then register."""
    if bundle is None:
        return (yield from ask(calls.register(spec(None))))
    sha = digest(bundle)
    if not (yield from ask(calls.has_bundle(sha))):
        yield from ask(calls.put_bundle(sha, bundle))
    return (yield from ask(calls.register(spec(sha))))


def execution(id: str) -> Flow[Execution]:
    """An execution with its state."""
    info = yield from ask(calls.execution(id))
    return (yield from with_state(info))


def run(
    project: str, request: api.ExecuteRequest, wait: bool, timeout: float | None
) -> Flow[Execution]:
    """Start an execution and, if asked to, wait until it rests."""
    info = yield from ask(calls.execute(project, request))
    if wait:
        info = yield from settled(info, timeout)
    return (yield from with_state(info))


def waited(id: str, timeout: float | None) -> Flow[Execution]:
    """An execution once it has ended or paused."""
    info = yield from ask(calls.execution(id))
    info = yield from settled(info, timeout)
    return (yield from with_state(info))


def stop(id: str, reason: str | None, kill: bool, cell: int | None) -> Flow[Execution]:
    """Stop an execution, and what it has become by that."""
    info = yield from ask(calls.stop(id, reason, kill, cell))
    return (yield from with_state(info))


def with_state(info: ExecutionInfo) -> Flow[Execution]:
    """An execution with the state where it stands."""
    return Execution(info, (yield from ask(calls.state(info.id))))


def settled(info: ExecutionInfo, timeout: float | None) -> Flow[ExecutionInfo]:
    """An execution once it has ended or paused."""
    patience = Patience(timeout)
    while info.status not in _RESTS:
        yield patience.pause(f"execution {info.id}", info.status)
        info = yield from ask(calls.execution(info.id))
    return info


def batch_ended(batch: Batch, timeout: float | None, progress: OnProgress | None) -> Flow[Batch]:
    """The batch once it has ended; `progress` is called along the way, at last with the end."""
    patience = Patience(timeout)
    while True:
        found = yield from ask(calls.progress(batch.id))
        if progress is not None:
            progress(found)
        if found.status in TERMINAL_BATCH:
            return (yield from ask(calls.batch(batch.id)))
        yield patience.pause(f"batch {batch.id}", found.status)


def batch_test(
    request: api.BatchTestRequest, wait: bool, timeout: float | None, progress: OnProgress | None
) -> Flow[Batch]:
    """Make a batch and, if asked to, wait for its end."""
    batch = yield from ask(calls.batch_test(request))
    if wait:
        batch = yield from batch_ended(batch, timeout, progress)
    return batch


def leaderboard(batch_id: str) -> Flow[api.Leaderboard]:
    """The leaderboard, once it is computed."""
    patience = Patience()
    while True:
        board = yield from ask(calls.leaderboard(batch_id))
        if board is not None:
            return board
        yield patience.pause("the leaderboard", "being computed")


def files(id: str, checkpoint: str | None, prefix: str) -> Flow[list[FileEntry]]:
    """All files of one checkpoint."""
    return (yield from _files(id, checkpoint, prefix))[1]


def _files(
    id: str, checkpoint: str | None, prefix: str
) -> Flow[tuple[str | None, list[FileEntry]]]:
    items: list[FileEntry] = []
    after: str | None = None
    while True:
        call = calls.files(id, after, calls.MOST, checkpoint=checkpoint, prefix=prefix)
        part = yield from ask(call)
        items += part.items
        # The execution may go on meanwhile: further pages are of the same checkpoint.
        checkpoint, after = part.checkpoint_id, part.next
        if after is None:
            return checkpoint, items


def download_files(
    id: str, directory: Path | str, checkpoint: str | None, prefix: str
) -> Flow[list[Path]]:
    """All files of one checkpoint, into a folder; links last, so that none is followed."""
    folder = Folder(directory)
    checkpoint, entries = yield from _files(id, checkpoint, prefix)
    made = []
    for entry in sorted(entries, key=lambda entry: entry.kind == "link"):
        if entry.kind == "file":
            download = folder.download(entry)
            yield Fetch(calls.file(id, entry.path, checkpoint), download)
            made.append(download.place)
        else:
            made.append(folder.make(entry))
    return made


def download_file(id: str, path: str, checkpoint: str | None, place: Path) -> Flow[None]:
    """One file, to a place of its own."""
    yield Fetch(calls.file(id, path, checkpoint), Download(place))


def changes(
    id: str,
    from_checkpoint: str | None,
    to_checkpoint: str | None,
    other: str | None,
    text: bool,
) -> Flow[list[FileChange]]:
    """All changes of files between two checkpoints."""
    items: list[FileChange] = []
    after: str | None = None
    while True:
        call = calls.diff(
            id,
            after,
            from_checkpoint=from_checkpoint,
            to_checkpoint=to_checkpoint,
            other=other,
            text=text,
        )
        part = yield from ask(call)
        items += part.items
        after = part.next
        if after is None:
            return items
        from_checkpoint, to_checkpoint = part.from_checkpoint, part.to_checkpoint


def trash_request(restore_id: int, paths: Iterable[str] | None) -> api.TrashRestoreRequest:
    return made(
        api.TrashRestoreRequest,
        restore_id=restore_id,
        paths=None if paths is None else list(paths),
    )


class Patience:
    """Growing pauses until the timeout is over."""

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._seconds = 0.02

    def pause(self, what: str, status: str) -> Pause:
        """The next pause.

        Raises:
            TimeoutError: The time is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{what} is still {status} after {self._timeout} s; it goes on")
        self._seconds = min(self._seconds * 1.5, 1.0)
        return Pause(min(self._seconds, left))


def execute_request(
    initial_state: dict[str, Any],
    variant_config: dict[str, str] | None,
    breakpoints: Sequence[str] | None,
    options: RunOptions,
) -> api.ExecuteRequest:
    return made(
        api.ExecuteRequest,
        initial_state=initial_state,
        variant_config=variant_config or {},
        breakpoints=list(breakpoints or ()),
        **options,
    )


def batch_request(
    project: str,
    code: Code,
    variant_matrix: Iterable[dict[str, str]],
    test_cases: AnyCases,
    scorers: Iterable[AnyScorer],
    options: dict[str, Any],
) -> api.BatchTestRequest:
    """The request of a batch; cases are read and scorers named as the bench can import them."""
    return made(
        api.BatchTestRequest,
        project=project,
        variant_matrix=list(variant_matrix),
        test_cases=_cases(test_cases),
        scorers=[_scorer(s, code) for s in scorers],
        **options,
    )


def extend_request(
    test_cases: AnyCases, variant_matrix: Iterable[dict[str, str]], repetitions: int | None
) -> control.ExtendRequest:
    """The request to add to a batch."""
    given = test_cases if isinstance(test_cases, str | Path) else list(test_cases)
    return made(
        control.ExtendRequest,
        cases=_cases(given) if given else [],
        variants=list(variant_matrix),
        repetitions=repetitions,
    )


def _cases(given: AnyCases) -> list[Case]:
    if isinstance(given, str | Path):
        return cases.load_cases(given)
    return cases.from_list(given)


def _scorer(scorer: AnyScorer, code: Code) -> ScorerSpec:
    """The spec of a scorer; one that the project's code defines goes by its path in the bundle."""
    if isinstance(scorer, str):
        return ScorerSpec(name=scorer)
    if isinstance(scorer, ScorerSpec):
        return scorer.model_copy(update={"name": _script_scorer(scorer.name, code)})
    if inspect.iscoroutinefunction(scorer):
        return ScorerSpec(name=code.name(scorer, "scorers"))
    if not isinstance(scorer, Scorer):
        raise errors.InvalidRequest(
            f"{scorer!r} is no scorer: give its name or an async function",
            field="scorers",
            reason="not_a_scorer",
        )
    spec = scorer.spec()
    return spec if ":" not in spec.name else ScorerSpec(name=code.name(scorer, "scorers"))


def _script_scorer(name: str, code: Code) -> str:
    module, colon, function = name.partition(":")
    if colon and module == "__main__":
        return code.name(getattr(sys.modules["__main__"], function), "scorers")
    return name


def project_name(project: str | WorkflowProject) -> str:
    return project if isinstance(project, str) else project.name


def id_of(thing: str | Execution | BatchView) -> str:
    return thing if isinstance(thing, str) else thing.id


class Codes(dict[str, Code]):
    """The code of the projects that a bench has registered."""

    def __missing__(self, name: str) -> Code:
        """Of other projects nobody knows here what their bundles hold: only installed code counts."""
        code = Code()
        code.pack()
        return code


def made(kind: type[Model], **fields: Any) -> Model:
    """A request of these fields.

    Raises:
        InvalidRequest: One does not fit; names it.
    """
    try:
        return kind(**fields)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise errors.InvalidRequest(
            f"{where or kind.__name__}: {first['msg']}", field=where, reason=first["type"]
        ) from e
