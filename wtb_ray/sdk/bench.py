"""The bench for programs and notebooks; `AsyncTestBench` has the same names with `await`."""

import contextlib
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

import httpx

from wtb_ray import api, file_entries, model
from wtb_ray.batch_tree import BatchTree
from wtb_ray.events import EventRow
from wtb_ray.sdk import calls, flows, identity, local
from wtb_ray.sdk.async_bench import AsyncTestBench
from wtb_ray.sdk.audit import Auditing
from wtb_ray.sdk.calls import Call, Retry
from wtb_ray.sdk.environments import Environments
from wtb_ray.sdk.flows import (
    AnyCases,
    AnyScorer,
    BatchOptions,
    Fetch,
    Flow,
    OnProgress,
    RunOptions,
    id_of,
    project_name,
)
from wtb_ray.sdk.integrity import Integrity
from wtb_ray.sdk.limits import LimitsOfBench
from wtb_ray.sdk.project import WorkflowProject
from wtb_ray.sdk.steering_sync import Steering
from wtb_ray.sdk.storage import Storing
from wtb_ray.sdk.stream import EventStream
from wtb_ray.sdk.views import BatchView, Execution, batch_html
from wtb_ray.states import TERMINAL_CELL

Answer = TypeVar("Answer")


class WTBTestBench(Steering, Environments, Integrity, LimitsOfBench, Storing, Auditing):
    """A bench at a URL, at `WTB_URL`, or the local stack, which is started if none runs.

    A context manager; the stack goes on when it is closed.

    Args:
        url: `http://host:port` of a bench.
        token: Sent as a bearer token.
        actor: Who the event log names; default: `WTB_ACTOR`, else `<user>@sdk`.
        transport: Another transport for the HTTP client, as of httpx.

    Raises:
        Refused: The process only imports this code, because the bench runs it.
        Unavailable: The local stack did not start.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        actor: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        local.refuse_in_runner()
        self.url = local.find_url(url)
        self.codes = flows.Codes()
        self._token = token
        self._actor = actor or identity.caller("sdk")
        options = calls.client_options(self.url, token, self._actor)
        self._client = httpx.Client(transport=transport, **options)
        self._known = False

    def register_project(self, project: WorkflowProject) -> model.ProjectVersion:
        """Send the project's code and register it; the same project twice is one version."""
        bundle = project.code.pack()
        version = self.flow(flows.register(project.spec, bundle))
        self.codes[project.name] = project.code
        return version

    def list_projects(self) -> list[model.ProjectVersion]:
        """The newest version of every project."""
        return self.flow(flows.listed(calls.projects))

    def run(
        self,
        project: str | WorkflowProject,
        initial_state: dict[str, Any],
        variant_config: dict[str, str] | None = None,
        breakpoints: Sequence[str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        **options: Unpack[RunOptions],
    ) -> Execution:
        """Run a workflow on one input.

        Args:
            variant_config: `{node: variant}`, and `_workflow` for a whole other graph.
            breakpoints: `before:node` or `after:node`; a node alone means before it.
            wait: Return when it has ended or paused, not when it is accepted.
            timeout: Seconds to wait at most.
            options: `version`, `recursion_limit`, `priority`, `deadline_s` (seconds from its first
                start, after which it fails).

        Returns:
            The execution with its state. One that failed is returned too, with `.error`.

        Raises:
            InvalidRequest: Any of its kinds, for what is wrong with the request.
            TimeoutError: It has not ended in time; it goes on.
        """
        request = flows.execute_request(initial_state, variant_config, breakpoints, options)
        return self.flow(flows.run(project_name(project), request, wait, timeout))

    def wait(self, execution: str | Execution, timeout: float | None = None) -> Execution:
        """The execution once it has ended or paused."""
        return self.flow(flows.waited(id_of(execution), timeout))

    def get_execution(self, id: str) -> Execution:
        """An execution with its newest state."""
        return self.flow(flows.execution(id))

    def get_state(self, id: str, checkpoint: str | None = None) -> api.StateView:
        """The state at a checkpoint, or the newest one."""
        return self.send(calls.state(id, checkpoint))

    def get_checkpoints(self, id: str) -> list[api.Checkpoint]:
        """The checkpoints of an execution, newest first."""
        return self.flow(flows.listed(lambda a, n: calls.checkpoints(id, a, n)))

    def get_execution_history(
        self, project: str | WorkflowProject, limit: int | None = 10
    ) -> list[model.Execution]:
        """The executions of a project, newest first."""
        name = project_name(project)
        return self.flow(flows.listed(lambda a, n: calls.executions(a, n, project=name), limit))

    def stop(
        self, id: str, reason: str | None = None, kill: bool = False, cell: int | None = None
    ) -> Execution:
        """Stop an execution: when it is running, at its next step; with `kill`, at once.

        Of several cells that share it, all stop, or the one that is named alone.
        """
        return self.flow(flows.stop(id, reason, kill, cell))

    def files(
        self, id: str, checkpoint: str | None = None, prefix: str = ""
    ) -> list[file_entries.FileEntry]:
        """The files at a checkpoint, or the newest ones, in the order of their paths.

        Args:
            prefix: Only this file, or what is below this directory.
        """
        return self.flow(flows.files(id, checkpoint, prefix))

    def read_file(self, id: str, path: str, checkpoint: str | None = None) -> bytes:
        """The content of a file at a checkpoint, or its newest one."""
        return self.send(calls.file(id, path, checkpoint))

    def download_files(
        self, id: str, directory: Path | str, checkpoint: str | None = None, prefix: str = ""
    ) -> list[Path]:
        """Write the files at a checkpoint into a folder, and give their places.

        Each file appears complete or not at all; what is there already under its name is replaced.

        Raises:
            Refused: A path would lead out of the folder.
        """
        return self.flow(flows.download_files(id, directory, checkpoint, prefix))

    def diff_files(
        self,
        id: str,
        from_checkpoint: str | None = None,
        to_checkpoint: str | None = None,
        other: str | None = None,
        text: bool = False,
    ) -> list[file_entries.FileChange]:
        """How files changed from one checkpoint to another.

        Args:
            from_checkpoint: Unset: the last files before `to_checkpoint`; with `other`, the newest.
            to_checkpoint: Unset: the newest files.
            other: Another execution, whose checkpoint `to_checkpoint` is.
            text: Also give unified diffs of texts that are not too long.
        """
        return self.flow(flows.changes(id, from_checkpoint, to_checkpoint, other, text))

    def trash(self, id: str) -> list[file_entries.TrashedFile]:
        """The files that restores displaced, newest restore first."""
        return self.flow(flows.listed(lambda a, n: calls.trash(id, a, n)))

    def restore_trash(
        self, id: str, restore_id: int, paths: Iterable[str] | None = None
    ) -> api.RestoredTrash:
        """Bring back what a restore displaced, while the execution rests; see `trash`.

        Args:
            paths: Files or directories; unset: all of it.

        Raises:
            InvalidTransition: The execution runs, or is about to.
        """
        request = flows.trash_request(restore_id, paths)
        return self.send(calls.restore_trash(id, request))

    def run_batch_test(
        self,
        project: str | WorkflowProject,
        variant_matrix: Iterable[dict[str, str]],
        test_cases: AnyCases,
        scorers: Iterable[AnyScorer] = (),
        repetitions: int = 1,
        wait: bool = True,
        progress: OnProgress | None = None,
        timeout: float | None = None,
        **options: Unpack[BatchOptions],
    ) -> "Batch":
        """Run all variants on all cases and score the results.

        Args:
            variant_matrix: Bindings `{node: variant}`, each with an optional `_workflow` and `_name`.
            test_cases: Cases, or the path of a JSONL, CSV or Parquet file of them.
            scorers: Names, `@scorer` functions, or `ScorerSpec`s with arguments.
            wait: Return when the batch has ended, not when it is accepted.
            progress: Called with the progress every now and then, and at the end.
            timeout: Seconds to wait at most.
            options: `version`, `recursion_limit`, `priority`, `node_errors`, `share_prefix`,
                `interrupts`, `deadline_s` (seconds from the first start of a cell, after which it
                fails) and `budget` (a `Budget` or a dict of its fields).

        Raises:
            InvalidRequest: Any of its kinds, for what is wrong with the request.
            TimeoutError: It has not ended in time; it goes on.
        """
        name = project_name(project)
        request = flows.batch_request(
            name,
            self.codes[name],
            variant_matrix,
            test_cases,
            scorers,
            {"repetitions": repetitions, **options},
        )
        flow = flows.batch_test(request, wait, timeout, progress)
        return Batch(self, self.flow(flow))

    async def run_batch_test_async(
        self,
        project: str | WorkflowProject,
        variant_matrix: Iterable[dict[str, str]],
        test_cases: AnyCases,
        **arguments: Any,
    ) -> "Batch":
        """`run_batch_test` for async programs, with the same arguments."""
        async with AsyncTestBench(self.url, self._token, actor=self._actor) as bench:
            bench.codes = self.codes
            batch = await bench.run_batch_test(project, variant_matrix, test_cases, **arguments)
            return Batch(self, batch.info)

    def get_batch(self, id: str) -> "Batch":
        """A batch that was made before."""
        return Batch(self, self.send(calls.batch(id)))

    def results(self, batch: "str | Batch") -> list[api.CellResult]:
        """One row for every cell of a batch."""
        id = id_of(batch)
        return self.flow(flows.listed(lambda a, n: calls.results(id, a, n)))

    def leaderboard(self, batch: "str | Batch") -> api.Leaderboard:
        """The leaderboard of a batch, of the cells that have ended so far."""
        return self.flow(flows.leaderboard(id_of(batch)))

    def batch_tree(
        self, batch: "str | Batch", case: str | None = None, repetition: int | None = None
    ) -> BatchTree:
        """The ways of a batch's cells, laid over each other: what ran, and for how many.

        Args:
            case: Only its cells, by the id of a case.
            repetition: Only these, counted from 0.
        """
        return self.send(calls.batch_tree(id_of(batch), case, repetition))

    def events(
        self,
        after: str | None = None,
        *,
        execution: str | None = None,
        batch: str | None = None,
        types: Sequence[str] = (),
        follow: bool = True,
    ) -> Generator[EventRow, None, None]:
        """The event log, from its start or after a cursor, without gaps over lost connections.

        Args:
            after: The `.cursor` of the last event seen; `now` skips what has happened so far.
            execution: Only events of this execution.
            batch: Only events of this batch.
            types: Only events of these types, as `execution.completed`.
            follow: Wait for what is yet to happen; else end where the log ends now.
        """
        stream = EventStream(after, execution, batch, types, follow)
        retry: Retry | None = None
        while True:
            call = stream.call()
            retry = retry or self._retry()
            try:
                response = self._client.send(call.request(self._client), stream=True)
                with contextlib.closing(response):
                    delay = retry.after_response(call, response)
                    if delay is None:
                        if not response.is_success:
                            response.read()
                            raise calls.error_of(response)
                        retry, self._known = None, True
                        for chunk in response.iter_bytes():
                            yield from stream.feed(chunk)
                        if not follow:
                            return
                        delay = Retry.FIRST_DELAY_S
            except httpx.TransportError as e:
                delay = (retry or self._retry()).after_error(e)
            time.sleep(delay)

    def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call, sent again while no answer comes."""
        retry = self._retry()
        while True:
            try:
                response = self._client.send(call.request(self._client))
                delay = retry.after_response(call, response)
                if delay is None:
                    self._known = True
                    return call.answer(response)
            except httpx.TransportError as e:
                delay = retry.after_error(e)
            time.sleep(delay)

    def close(self) -> None:
        """Close the connections; the bench itself goes on."""
        self._client.close()

    def __enter__(self) -> "WTBTestBench":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _retry(self) -> Retry:
        return Retry(self.url, self._known)

    def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                done: Answer = end.value
                return done
            answer = None
            if isinstance(step, Call):
                answer = self.send(step)
            elif isinstance(step, Fetch):
                self._fetch(step)
            else:
                time.sleep(step.seconds)

    def _fetch(self, fetch: Fetch) -> None:
        """Downloads a file, from its beginning again while no whole answer comes."""
        retry, call = self._retry(), fetch.call
        while True:
            try:
                response = self._client.send(call.request(self._client), stream=True)
                with contextlib.closing(response):
                    delay = retry.after_response(call, response)
                    if delay is None:
                        if not response.is_success:
                            response.read()
                            raise calls.error_of(response)
                        with fetch.download as download:
                            for chunk in response.iter_bytes():
                                download.feed(chunk)
                            download.finish(response.headers.get("ETag"))
                        return
            except httpx.TransportError as e:
                delay = retry.after_error(e)
            time.sleep(delay)


class Batch(BatchView):
    """A batch of a `WTBTestBench`."""

    def __init__(self, bench: WTBTestBench, info: model.Batch) -> None:
        super().__init__(info)
        self._bench = bench
        self._results: list[api.CellResult] | None = None

    @property
    def results(self) -> list[api.CellResult]:
        """One row for every cell; read anew as long as any of them may change."""
        if self._results is None or not {r.status for r in self._results} <= TERMINAL_CELL:
            self._results = self._bench.results(self)
        return self._results

    def leaderboard(self) -> api.Leaderboard:
        """The leaderboard of the cells that have ended so far."""
        return self._bench.leaderboard(self)

    def tree(self, case: str | None = None, repetition: int | None = None) -> BatchTree:
        """What ran so far, for how many cells, and what sharing spared."""
        return self._bench.batch_tree(self, case, repetition)

    def progress(self) -> api.Progress:
        """How far it is."""
        return self._bench.send(calls.progress(self.id))

    def wait(self, timeout: float | None = None, progress: OnProgress | None = None) -> "Batch":
        """This batch, once it has ended."""
        self.info = self._bench.flow(flows.batch_ended(self.info, timeout, progress))
        return self

    def stop(self, reason: str | None = None, variant: str | None = None) -> "Batch":
        """Stop it, or one variant: what waits never starts, what runs stops at its next step."""
        self.info = self._bench.send(calls.stop_batch(self.id, reason, variant))
        return self

    def rerun(
        self,
        status: Sequence[str] = ("FAILED", "CANCELLED"),
        variant: str | None = None,
        case: str | None = None,
    ) -> "Batch":
        """Run cells in these statuses again, all or those of a variant and a case.

        `EXCLUDED` are those that a budget kept from beginning.

        Raises:
            Conflict: It has no such cell, or its budget is used up.
        """
        self.info = self._bench.rerun_batch(self.id, status, variant, case)
        return self

    def set_budget(self, **amounts: float | None) -> "Batch":
        """Change its budgets: `cost=5, tokens=None`; None lifts one.

        Raises:
            Conflict: More than an amount is used already.
            InvalidTransition: It was stopped or has failed.
        """
        self.info = self._bench.set_budget(self.id, **amounts)
        return self

    def extend(
        self,
        test_cases: AnyCases = (),
        variant_matrix: Iterable[dict[str, str]] = (),
        repetitions: int | None = None,
    ) -> "Batch":
        """Add cases, variants and repetitions; only cells that are not there yet run.

        Args:
            test_cases: Cases, or the path of a file of them; one that is known must be the same.
            variant_matrix: Bindings; one that is known must be the same.
            repetitions: How many there are to be in all; None leaves them.

        Raises:
            Conflict: A case or variant is known as another one.
        """
        self.info = self._bench.extend_batch(self.id, test_cases, variant_matrix, repetitions)
        return self

    def pause(self) -> "Batch":
        """Start nothing more of it; what runs is given back after its present step."""
        self.info = self._bench.pause_batch(self.id)
        return self

    def resume(self) -> "Batch":
        """Go on with it."""
        self.info = self._bench.resume_batch(self.id)
        return self

    def _repr_html_(self) -> str:
        return batch_html(self.info, self.leaderboard() if self.ended else None)
