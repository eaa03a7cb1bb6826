"""The files of one runner's executions: a workspace for each claim, kept with every restore point.

A claim gets its workspace before its graph is entered, with the files of the restore point that it
goes on from, and leaves it when its end is settled. What a restore displaced is recorded, so that
it can be got back. Without tracking the directory is made when a node first asks for it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple

from langgraph.checkpoint.base import CheckpointMetadata

from wtb_ray import errors, events, venvs
from wtb_ray.actors.cellar import UNTRACKED
from wtb_ray.attachments import Attachment, Lease
from wtb_ray.context import Context, Workspace, entered
from wtb_ray.holds import Holds, Session
from wtb_ray.model import VENV, Assignment, ProjectSpec
from wtb_ray.objects import GUARD
from wtb_ray.states import EXECUTION
from wtb_ray.store import Store
from wtb_ray.store.settlements import COMMANDS, Settlement
from wtb_ray.trees import Restored
from wtb_ray.workspaces import OpenWorkspace, Workspaces, as_current_directory

FIRST_STEP: Final = 0
"""The checkpoint that holds the input; those before it have no files."""


class Parked(NamedTuple):
    """What became of the workspace of an execution that pauses."""

    manifest: str | None = None
    """Its files, where they have changed since they were last kept."""
    kept: bool = False
    released: bool = False
    left: str | None = None
    """Why it was not treated as it should have been."""


class Tracking:
    """Workspaces of the executions that a runner holds."""

    def __init__(
        self,
        workspaces: Workspaces,
        store: Store,
        spec: ProjectSpec,
        runner: str,
        bundle: Path | None,
        holds: Holds,
        venv: Path | None = None,
    ) -> None:
        self._venv = venv if spec.copies_environment else None
        self._workspaces = workspaces
        self._store = store
        self._spec = spec
        self._config = spec.tracked_files
        isolation = spec.workspace_isolation
        self._alone = isolation is not None and isolation.isolation == "process"
        self._runner = runner
        self._bundle = bundle
        self._holds = holds
        self._open: dict[tuple[str, int], OpenWorkspace] = {}
        self._resting: dict[tuple[str, int], Session] = {}
        """Leases of claims that come to rest, until that is settled."""

    async def enter(self, one: Assignment, attachment: Attachment) -> None:
        """Gives a claim its workspace, with the files that it goes on from.

        Raises:
            FilesRefused: The inputs, or what stands in the directory, cannot be used.
            RestoreRefused: The files cannot be brought back; nothing was touched.
            StorageFull: There is no room for them.
        """
        if self._config is None:
            opened = await self._enter(one, None)
        else:
            async with self._holds.writing() as session:
                opened = await self._enter(one, session.id)
        self._open[one.execution_id, one.epoch] = opened
        if self._venv is not None:
            await self._workspaces.run(_copied, self._venv, opened.workspace)
        attachment.workspace = opened.workspace
        attachment.forbidden_prefix = str(self._workspaces.root)
        if self._config is not None:
            attachment.snapshot = self._keeper(opened, attachment)
        if opened.healed:
            await self._tell_of_healing(one, opened.healed)

    async def _enter(self, one: Assignment, lease: str | None) -> OpenWorkspace:
        async def witness(restored: Restored) -> None:
            await self._store.files.record_restore(
                one.execution_id, one.epoch, restored, "restart", actor=self._runner, lease=lease
            )

        return await self._workspaces.open(
            one.execution_id,
            one.epoch,
            tracking=self._config,
            isolation=self._spec.workspace_isolation,
            manifest=one.manifest,
            bundle=self._bundle,
            witness=witness,
            since=one.clean_from,
        )

    def _keeper(
        self, opened: OpenWorkspace, attachment: Attachment
    ) -> Callable[[CheckpointMetadata], Awaitable[str | None]]:
        async def keep(metadata: CheckpointMetadata) -> str | None:
            if metadata["step"] < FIRST_STEP:
                return None
            ran = metadata["step"] > FIRST_STEP and metadata["source"] == "loop"
            async with self._holds.writing() as session:
                manifest = await opened.commit(ran=ran)
                if manifest is not None:
                    attachment.lease = Lease(session.id, self._holds.share(session))
            return manifest

        return keep

    async def _held(self, one: Assignment) -> Session:
        """The lease of a claim that comes to rest."""
        claim = (one.execution_id, one.epoch)
        if claim not in self._resting:
            self._resting[claim] = await self._holds.begin()
        return self._resting[claim]

    def lease(self, one: Assignment) -> str | None:
        """That under which the files of a claim that comes to rest are stored, if they are."""
        session = self._resting.get((one.execution_id, one.epoch))
        return None if session is None else session.id

    async def _tell_of_healing(self, one: Assignment, paths: list[str]) -> None:
        await self._tell(one, events.InputsHealed(host=socket.gethostname(), paths=paths))

    async def rest(self, one: Assignment) -> str | None:
        """Keeps the files of an execution that comes to rest within a super-step."""
        if self._config is None:
            return None
        with guarded(await self._held(one)):
            return await self._open[one.execution_id, one.epoch].commit()

    @contextmanager
    def inside(self, one: Assignment) -> Iterator[None]:
        """For code of the project: makes the workspace its own, as the isolation asks for."""
        opened = self._open[one.execution_id, one.epoch]
        context = Context(one.execution_id, {}, "", workspace=opened.workspace)
        here = as_current_directory(opened.workspace) if self._alone else nullcontext()
        with entered(context), here:
            yield

    def pauses(self, one: Assignment) -> bool:
        """Whether an execution whose files cannot be kept waits for somebody to look at it."""
        return (
            self._config is not None
            and self._config.on_error == "pause"
            and one.batch_id is None  # a batch waits for nobody
        )

    def abandon(self, one: Assignment) -> None:
        """Leaves a claim's workspace to a thread that may still write there: nobody else gets it."""
        opened = self._open.pop((one.execution_id, one.epoch), None)
        if opened is not None:
            opened.abandon()

    async def leave(self, one: Assignment, settlement: Settlement | None) -> None:
        """Lets go of a claim's workspace, after its end is settled."""
        session = self._resting.pop((one.execution_id, one.epoch), None)
        if session is not None:
            self._holds.release(session)
        opened = self._open.pop((one.execution_id, one.epoch), None)
        keep = True
        if opened is not None:
            keep = settlement is None or opened.keeps(EXECUTION[COMMANDS[settlement.kind]][1])
            await self._close(one, opened, keep=keep)
        if settlement is None:
            return
        if self._config is not None and self._config.max_snapshots is not None:
            await self._store.executions.forget_files(one.execution_id, self._config.max_snapshots)
        if settlement.kind == "fail" and keep and opened is not None and opened.made:
            host, path = socket.gethostname(), str(opened.root)
            await self._tell(one, events.WorkspaceKept(host=host, path=path, reason="failed"))

    async def park(self, one: Assignment, *, cold: bool) -> Parked:
        """Lets go of the workspace of a claim before its pause is settled, and keeps its files.

        Whoever goes on with the execution finds the directory free, or, when it is cold and all that
        is in it is kept, gone.
        """
        opened = self._open.get((one.execution_id, one.epoch))
        if opened is None:
            return Parked(left="a node that did not end may still write there")
        if not opened.made:
            return Parked()
        before, why = opened.manifest, None
        if self._config is None:
            why = UNTRACKED if cold else None
        elif cold or self._config.commit_on != "checkpoint":
            try:
                with guarded(await self._held(one)):
                    await opened.commit(always=True)
            except errors.WTBError as e:
                why = f"its files cannot be kept: {e.message}"
        gone = cold and why is None
        del self._open[one.execution_id, one.epoch]
        await self._close(one, opened, keep=not gone)
        manifest = opened.manifest if opened.manifest != before else None
        return Parked(manifest=manifest, kept=not gone, released=gone, left=why)

    async def _close(self, one: Assignment, opened: OpenWorkspace, *, keep: bool) -> None:
        known = len(opened.healed)
        await asyncio.shield(opened.close(keep=keep))
        if len(opened.healed) > known:
            await self._tell_of_healing(one, opened.healed[known:])

    async def _tell(self, one: Assignment, event: events.Event) -> None:
        async with self._store.db.transaction() as conn:
            await self._store.events.append(
                conn,
                self._runner,
                event,
                project=one.project,
                execution_id=one.execution_id,
                batch_id=one.batch_id,
            )


def _copied(venv: Path, workspace: Workspace) -> None:
    """Puts a copy of the environment into a workspace that has none."""
    target = workspace.ready().path / VENV.strip("/")
    if not target.exists():
        venvs.copy(venv, target)


@contextmanager
def guarded(session: Session) -> Iterator[None]:
    """What is stored inside is stored under this lease."""
    token = GUARD.set(session)
    try:
        yield
    finally:
        GUARD.reset(token)
