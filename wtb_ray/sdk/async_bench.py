"""The bench for async programs."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

import httpx

from wtb_ray import api, file_entries, model
from wtb_ray.batch_tree import BatchTree
from wtb_ray.events import EventRow
from wtb_ray.sdk import calls, flows, identity, local
from wtb_ray.sdk.audit import AsyncAuditing
from wtb_ray.sdk.calls import Call, Retry
from wtb_ray.sdk.environments import AsyncEnvironments
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
from wtb_ray.sdk.integrity import AsyncIntegrity
from wtb_ray.sdk.limits import AsyncLimitsOfBench
from wtb_ray.sdk.project import WorkflowProject
from wtb_ray.sdk.steering_async import AsyncSteering
from wtb_ray.sdk.storage import AsyncStoring
from wtb_ray.sdk.stream import EventStream
from wtb_ray.sdk.views import BatchView, Execution, batch_html

Answer = TypeVar("Answer")


class AsyncTestBench(
    AsyncSteering,
    AsyncEnvironments,
    AsyncIntegrity,
    AsyncLimitsOfBench,
    AsyncStoring,
    AsyncAuditing,
):
    """A bench at a URL, at `WTB_URL`, or the local stack, which is started if none runs.

    An async context manager; it connects when it is first used. `actor` is whom the
    event log names; default: `WTB_ACTOR`, else `<user>@sdk`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        actor: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        local.refuse_in_runner()
        self.url = url
        self.codes = flows.Codes()
        self._token = token
        self._actor = actor or identity.caller("sdk")
        self._transport = transport
        self._connecting = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._known = False

    async def register_project(self, project: WorkflowProject) -> model.ProjectVersion:
        """Send the project's code and register it; the same project twice is one version."""
        bundle = await asyncio.to_thread(project.code.pack)
        version = await self.flow(flows.register(project.spec, bundle))
        self.codes[project.name] = project.code
        return version

    async def list_projects(self) -> list[model.ProjectVersion]:
        """The newest version of every project."""
        return await self.flow(flows.listed(calls.projects))

    async def run(
        self,
        project: str | WorkflowProject,
        initial_state: dict[str, Any],
        variant_config: dict[str, str] | None = None,
        breakpoints: Sequence[str] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        **options: Unpack[RunOptions],
    ) -> Execution:
        """Run a workflow on one input; see `WTBTestBench.run`."""
        request = flows.execute_request(initial_state, variant_config, breakpoints, options)
        return await self.flow(flows.run(project_name(project), request, wait, timeout))

    async def wait(self, execution: str | Execution, timeout: float | None = None) -> Execution:
        """The execution once it has ended or paused."""
        return await self.flow(flows.waited(id_of(execution), timeout))

    async def get_execution(self, id: str) -> Execution:
        """An execution with its newest state."""
        return await self.flow(flows.execution(id))

    async def get_state(self, id: str, checkpoint: str | None = None) -> api.StateView:
        """The state at a checkpoint, or the newest one."""
        return await self.send(calls.state(id, checkpoint))

    async def get_checkpoints(self, id: str) -> list[api.Checkpoint]:
        """The checkpoints of an execution, newest first."""
        return await self.flow(flows.listed(lambda a, n: calls.checkpoints(id, a, n)))

    async def get_execution_history(
        self, project: str | WorkflowProject, limit: int | None = 10
    ) -> list[model.Execution]:
        """The executions of a project, newest first."""
        name = project_name(project)
        return await self.flow(
            flows.listed(lambda a, n: calls.executions(a, n, project=name), limit)
        )

    async def stop(
        self, id: str, reason: str | None = None, kill: bool = False, cell: int | None = None
    ) -> Execution:
        """Stop an execution: when it is running, at its next step; with `kill`, at once.

        Of several cells that share it, all stop, or the one that is named alone.
        """
        return await self.flow(flows.stop(id, reason, kill, cell))

    async def files(
        self, id: str, checkpoint: str | None = None, prefix: str = ""
    ) -> list[file_entries.FileEntry]:
        """The files at a checkpoint, or the newest ones; see `WTBTestBench.files`."""
        return await self.flow(flows.files(id, checkpoint, prefix))

    async def read_file(self, id: str, path: str, checkpoint: str | None = None) -> bytes:
        """The content of a file at a checkpoint, or its newest one."""
        return await self.send(calls.file(id, path, checkpoint))

    async def download_files(
        self, id: str, directory: Path | str, checkpoint: str | None = None, prefix: str = ""
    ) -> list[Path]:
        """Write files into a folder; see `WTBTestBench.download_files`."""
        return await self.flow(flows.download_files(id, directory, checkpoint, prefix))

    async def diff_files(
        self,
        id: str,
        from_checkpoint: str | None = None,
        to_checkpoint: str | None = None,
        other: str | None = None,
        text: bool = False,
    ) -> list[file_entries.FileChange]:
        """How files changed; see `WTBTestBench.diff_files`."""
        return await self.flow(flows.changes(id, from_checkpoint, to_checkpoint, other, text))

    async def trash(self, id: str) -> list[file_entries.TrashedFile]:
        """The files that restores displaced, newest restore first."""
        return await self.flow(flows.listed(lambda a, n: calls.trash(id, a, n)))

    async def restore_trash(
        self, id: str, restore_id: int, paths: Iterable[str] | None = None
    ) -> api.RestoredTrash:
        """Bring back what a restore displaced; see `WTBTestBench.restore_trash`."""
        request = flows.trash_request(restore_id, paths)
        return await self.send(calls.restore_trash(id, request))

    async def run_batch_test(
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
    ) -> "AsyncBatch":
        """Run all variants on all cases; see `WTBTestBench.run_batch_test`."""
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
        return AsyncBatch(self, await self.flow(flow))

    run_batch_test_async = run_batch_test

    async def get_batch(self, id: str) -> "AsyncBatch":
        """A batch that was made before."""
        return AsyncBatch(self, await self.send(calls.batch(id)))

    async def results(self, batch: "str | AsyncBatch") -> list[api.CellResult]:
        """One row for every cell of a batch."""
        id = id_of(batch)
        return await self.flow(flows.listed(lambda a, n: calls.results(id, a, n)))

    async def leaderboard(self, batch: "str | AsyncBatch") -> api.Leaderboard:
        """The leaderboard of a batch, of the cells that have ended so far."""
        return await self.flow(flows.leaderboard(id_of(batch)))

    async def batch_tree(
        self, batch: "str | AsyncBatch", case: str | None = None, repetition: int | None = None
    ) -> BatchTree:
        """The ways of a batch's cells, laid over each other: what ran, and for how many.

        Args:
            case: Only its cells, by the id of a case.
            repetition: Only these, counted from 0.
        """
        return await self.send(calls.batch_tree(id_of(batch), case, repetition))

    async def events(
        self,
        after: str | None = None,
        *,
        execution: str | None = None,
        batch: str | None = None,
        types: Sequence[str] = (),
        follow: bool = True,
    ) -> AsyncGenerator[EventRow, None]:
        """The event log; see `WTBTestBench.events`."""
        stream = EventStream(after, execution, batch, types, follow)
        client = await self._connected()
        retry: Retry | None = None
        while True:
            call = stream.call()
            retry = retry or self._retry()
            try:
                response = await client.send(call.request(client), stream=True)
                async with contextlib.aclosing(response):
                    delay = retry.after_response(call, response)
                    if delay is None:
                        if not response.is_success:
                            await response.aread()
                            raise calls.error_of(response)
                        retry, self._known = None, True
                        async for chunk in response.aiter_bytes():
                            for row in stream.feed(chunk):
                                yield row
                        if not follow:
                            return
                        delay = Retry.FIRST_DELAY_S
            except httpx.TransportError as e:
                delay = (retry or self._retry()).after_error(e)
            await asyncio.sleep(delay)

    async def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call, sent again while no answer comes."""
        client, retry = await self._connected(), self._retry()
        while True:
            try:
                response = await client.send(call.request(client))
                delay = retry.after_response(call, response)
                if delay is None:
                    self._known = True
                    return call.answer(response)
            except httpx.TransportError as e:
                delay = retry.after_error(e)
            await asyncio.sleep(delay)

    async def aclose(self) -> None:
        """Close the connections; the bench itself goes on."""
        if self._client is not None:
            await self._client.aclose()

    async def __aenter__(self) -> "AsyncTestBench":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _connected(self) -> httpx.AsyncClient:
        async with self._connecting:
            if self._client is None:
                self.url = await asyncio.to_thread(local.find_url, self.url)
                options = calls.client_options(self.url, self._token, self._actor)
                self._client = httpx.AsyncClient(transport=self._transport, **options)
            return self._client

    def _retry(self) -> Retry:
        return Retry(self.url or "", self._known)

    async def flow(self, flow: Flow[Answer]) -> Answer:
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
                answer = await self.send(step)
            elif isinstance(step, Fetch):
                await self._fetch(step)
            else:
                await asyncio.sleep(step.seconds)

    async def _fetch(self, fetch: Fetch) -> None:
        """Downloads a file, from its beginning again while no whole answer comes."""
        client, retry, call = await self._connected(), self._retry(), fetch.call
        while True:
            try:
                response = await client.send(call.request(client), stream=True)
                async with contextlib.aclosing(response):
                    delay = retry.after_response(call, response)
                    if delay is None:
                        if not response.is_success:
                            await response.aread()
                            raise calls.error_of(response)
                        with fetch.download as download:
                            async for chunk in response.aiter_bytes():
                                download.feed(chunk)
                            download.finish(response.headers.get("ETag"))
                        return
            except httpx.TransportError as e:
                delay = retry.after_error(e)
            await asyncio.sleep(delay)


class AsyncBatch(BatchView):
    """A batch of an `AsyncTestBench`."""

    def __init__(self, bench: AsyncTestBench, info: model.Batch) -> None:
        super().__init__(info)
        self._bench = bench
        self._board: api.Leaderboard | None = None

    async def results(self) -> list[api.CellResult]:
        """One row for every cell."""
        return await self._bench.results(self)

    async def leaderboard(self) -> api.Leaderboard:
        """The leaderboard of the cells that have ended so far."""
        self._board = await self._bench.leaderboard(self)
        return self._board

    async def tree(self, case: str | None = None, repetition: int | None = None) -> BatchTree:
        """What ran so far, for how many cells, and what sharing spared."""
        return await self._bench.batch_tree(self, case, repetition)

    async def progress(self) -> api.Progress:
        """How far it is."""
        return await self._bench.send(calls.progress(self.id))

    async def wait(
        self, timeout: float | None = None, progress: OnProgress | None = None
    ) -> "AsyncBatch":
        """This batch, once it has ended."""
        self.info = await self._bench.flow(flows.batch_ended(self.info, timeout, progress))
        return self

    async def stop(self, reason: str | None = None, variant: str | None = None) -> "AsyncBatch":
        """Stop it, or one variant: what waits never starts, what runs stops at its next step."""
        self.info = await self._bench.send(calls.stop_batch(self.id, reason, variant))
        return self

    async def rerun(
        self,
        status: Sequence[str] = ("FAILED", "CANCELLED"),
        variant: str | None = None,
        case: str | None = None,
    ) -> "AsyncBatch":
        """Run cells in these statuses again; see `Batch.rerun`."""
        self.info = await self._bench.rerun_batch(self.id, status, variant, case)
        return self

    async def set_budget(self, **amounts: float | None) -> "AsyncBatch":
        """Change its budgets; see `Batch.set_budget`."""
        self.info = await self._bench.set_budget(self.id, **amounts)
        return self

    async def extend(
        self,
        test_cases: AnyCases = (),
        variant_matrix: Iterable[dict[str, str]] = (),
        repetitions: int | None = None,
    ) -> "AsyncBatch":
        """Add cases, variants and repetitions; see `Batch.extend`."""
        self.info = await self._bench.extend_batch(self.id, test_cases, variant_matrix, repetitions)
        return self

    async def pause(self) -> "AsyncBatch":
        """Start nothing more of it; what runs is given back after its present step."""
        self.info = await self._bench.pause_batch(self.id)
        return self

    async def resume(self) -> "AsyncBatch":
        """Go on with it."""
        self.info = await self._bench.resume_batch(self.id)
        return self

    def _repr_html_(self) -> str:
        return batch_html(self.info, self._board)
