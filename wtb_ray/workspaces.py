"""Workspaces: the directory that each claimed execution has for itself, from its claim to its end.

Guarantees: no two claims ever share a directory; nothing is made for executions that neither ask for
a workspace nor have one configured; where files are tracked, node code only ever sees the tree of the
manifest it goes on from. What a takeover finds and cannot keep is left where it was, never lost.
Never writes to the database: what happened is there to be read on `OpenWorkspace`.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from wtb_ray import errors, homes, locks, removal
from wtb_ray import inputs as inputs_
from wtb_ray.context import INPUT, WORKSPACE_ENV, Workspace
from wtb_ray.homes import FILES, Home
from wtb_ray.inputs import Inputs, Strategy
from wtb_ray.listings import Listers
from wtb_ray.model import FileTrackingConfig, WorkspaceIsolationConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.restores import Restored, Witness
from wtb_ray.states import ExecutionStatus
from wtb_ray.trees import TrackedTree

log = logging.getLogger(__name__)

THREADS: Final = 4
"""Threads for files: beside those of sync nodes, which may all be taken."""
_DEFAULT: Final = WorkspaceIsolationConfig()
P = ParamSpec("P")
T = TypeVar("T")


class Workspaces:
    """The workspaces of one runner process; belongs to its event loop."""

    def __init__(self, root: Path, objects: ObjectStore, *, runner: str) -> None:
        """Workspaces below `root`.

        Args:
            root: A directory for nothing else, on a local file system.
            objects: Where tracked files are kept.
            runner: Who holds them.
        """
        self.root = Path(os.path.realpath(root))
        """No string below it may stand in state."""
        self.owner = locks.Owner.here(runner)
        self.objects = objects
        self.executor = ThreadPoolExecutor(THREADS, "files")
        self.listers = Listers()
        self._inputs: dict[tuple[Path | None, tuple[str, ...]], Inputs] = {}
        self._keeping = asyncio.Lock()

    async def open(
        self,
        execution_id: str,
        epoch: int,
        *,
        tracking: FileTrackingConfig | None = None,
        isolation: WorkspaceIsolationConfig | None = None,
        manifest: str | None = None,
        bundle: Path | None = None,
        witness: Witness | None = None,
        since: int = 0,
    ) -> "OpenWorkspace":
        """The workspace of a claim.

        Without any configuration its directory is made when node code first asks for it.

        Args:
            execution_id: Whose.
            epoch: Of which claim.
            tracking: Which files belong to checkpoints.
            isolation: How it is made and what becomes of it.
            manifest: The tree that it starts with, where files are tracked; None is the empty one.
            bundle: The project's folder, which inputs are taken from.
            witness: Is told what was restored, before what was displaced could be forgotten.
            since: Directories of claims of earlier epochs are not gone on with.

        Raises:
            Fenced: A later claim is here already.
            FilesRefused: An input cannot be had; by path and reason.
            RestoreRefused: The tree cannot be restored.
            StorageFull: There is no room.
            Unavailable: The object store does not answer.
        """
        opened = OpenWorkspace(self, execution_id, epoch, since)
        if tracking is not None and not tracking.enabled:
            tracking = None
        if tracking is None and isolation is None:
            return opened
        opened.isolation = isolation or opened.isolation
        try:
            await opened._furnish(tracking, manifest, bundle, witness)
        except BaseException:
            await opened._give_up()
            raise
        return opened

    async def reopen(
        self,
        execution_id: str,
        epoch: int,
        *,
        tracking: FileTrackingConfig,
        isolation: WorkspaceIsolationConfig | None = None,
    ) -> "OpenWorkspace | None":
        """The directory that a resting execution has on this host, as it is; None if there is none.

        Args:
            execution_id: Whose.
            epoch: That of the execution; whoever claims it later gets another directory meanwhile.
            tracking: Which files belong to checkpoints.
            isolation: How it was made.
        """
        opened = OpenWorkspace(self, execution_id, epoch, 0)
        opened.isolation = isolation or opened.isolation
        return opened if await opened._find(tracking) else None

    def has(self, execution_id: str) -> bool:
        """Whether an execution has a directory on this host."""
        return any(homes.of(self.root, execution_id))

    async def inputs(self, bundle: Path | None, names: tuple[str, ...]) -> Inputs:
        """The inputs of a bundle on this host."""
        async with self._keeping:
            known = self._inputs.get((bundle, names))
            if known is None or not known.in_use():
                known = await self.run(_kept, self.root, bundle, names)
                self._inputs[bundle, names] = known
            return known

    async def run(self, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Has a thread for files do this."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, lambda: do(*args, **kwargs))

    def close(self) -> None:
        """Ends the threads; no workspace is to be open any more."""
        self.executor.shutdown(wait=False)
        self.listers.close()


class OpenWorkspace:
    """A claim's workspace, from the claim until it is settled."""

    __slots__ = (
        "_asked",
        "_home",
        "_inputs",
        "_made",
        "_since",
        "_spaces",
        "_tracking",
        "_tree",
        "healed",
        "isolation",
        "manifest",
        "restored",
        "workspace",
    )

    def __init__(self, spaces: Workspaces, execution_id: str, epoch: int, since: int) -> None:
        self._spaces = spaces
        self._since = since
        self._home = Home(spaces.root, execution_id, epoch)
        self._made = self._asked = False
        self._inputs: Inputs | None = None
        self._tracking: FileTrackingConfig | None = None
        self._tree: TrackedTree | None = None
        self.isolation = _DEFAULT
        root = f"{spaces.root}/{execution_id}/{epoch}/{FILES}"
        self.workspace = Workspace(root, make=self._make)
        """What node code gets."""
        self.manifest: str | None = None
        """The tree that was last kept, or that it began with."""
        self.restored: Restored | None = None
        """What making the tree of the manifest took."""
        self.healed: list[str] = []
        """Inputs that had been changed and were made good, at opening and at closing."""

    @property
    def root(self) -> Path:
        """The directory."""
        return self._home.files

    @property
    def made(self) -> bool:
        """Whether there is a directory."""
        return self._made

    @property
    def reused(self) -> bool:
        """Whether an earlier claim's directory goes on in this one."""
        return self._made and self._home.former is not None

    @property
    def tracked(self) -> bool:
        """Whether its files are kept."""
        return self._tree is not None

    async def commit(self, *, ran: bool = True, always: bool = False) -> str | None:
        """Keeps the files for a restore point.

        Args:
            ran: Whether nodes ran since the last one.
            always: Whatever `commit_on` says.

        Returns:
            The manifest; None where files are not tracked, or not to be kept now by `commit_on`.

        Raises:
            FilesRefused: Something in it cannot be kept; by path and reason.
            QuotaExceeded: There is too much in it.
            StorageFull: There is no room for the objects.
            Unavailable: The object store does not answer.
        """
        if self._tree is None or self._tracking is None:
            return None
        self._asked = self.workspace.take_commit() or self._asked
        due = {"checkpoint": True, "node_complete": ran or self._asked, "manual": self._asked}
        if not (always or due[self._tracking.commit_on]):
            return None
        snapshot = await self._tree.snapshot()
        self._asked, self.manifest = False, snapshot.manifest
        return self.manifest

    def keeps(self, status: ExecutionStatus) -> bool:
        """Whether the directory is to be kept when the execution leaves the runner like this."""
        if status in (ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED):
            return not self.isolation.cleanup_on_complete
        return status is not ExecutionStatus.FAILED or self.isolation.preserve_on_failure

    async def close(self, keep: bool, *, earlier: bool = True) -> None:
        """Ends the use of it. No node of the execution runs any more.

        Args:
            keep: Leave the directory to the next claim on this host, or to be swept.
            earlier: If not, remove those that earlier claims left, too.
        """
        self.workspace.end()
        spaces = self._spaces
        try:
            if self._inputs is not None:
                await self._heal(self._inputs)
        finally:
            # The first claim of an execution has nothing before it, so it need not look.
            if not keep:
                if self._made or (self._home.epoch > 1 and self._home.path.parent.exists()):
                    await self._remove(earlier=earlier)
            elif self._made:
                await self._remember()
                await spaces.run(homes.release, self._home, spaces.owner)

    def abandon(self) -> None:
        """Ends the use of it while a thread may still write there: nobody gets this directory.

        It is swept once this process is gone.
        """
        self.workspace.end()

    def _make(self) -> None:
        self._home = homes.take(self._home, self._spaces.owner, since=self._since)
        self._made = True

    async def _find(self, tracking: FileTrackingConfig) -> bool:
        """Takes the directory that is there already, without making or changing anything."""
        self._home = await self._spaces.run(homes.retake, self._home, self._spaces.owner)
        if self._home.former is None:
            return False
        self._made, self._tracking = True, tracking
        self._tree = self._tracked(tracking)
        await self._tree.load()
        return True

    async def _remember(self) -> None:
        """Writes down what is known of the files, so that the next claim need not read them all."""
        if self._tree is not None:
            try:
                await self._tree.save()
            except OSError as e:
                log.warning("not written down: %s", e, extra={"action": "save_stats"})

    async def _give_up(self) -> None:
        """Leaves everything as it was before the opening."""
        self.workspace.end()
        if self.reused:
            await self._spaces.run(homes.release, self._home, self._spaces.owner)
        elif self._made:
            await self._remove(earlier=False)

    async def _remove(self, *, earlier: bool) -> None:
        spaces = self._spaces
        thrown = await spaces.run(homes.leave, self._home, spaces.owner, earlier=earlier)
        try:
            await spaces.run(removal.remove, *thrown)
        except OSError as e:  # a sweep tries again; the execution's result is not at stake
            log.warning("not removed: %s", e, extra={"action": "remove_workspace"})

    async def _furnish(
        self,
        tracking: FileTrackingConfig | None,
        manifest: str | None,
        bundle: Path | None,
        witness: Witness | None,
    ) -> None:
        names = self.isolation.inputs
        inputs = await self._spaces.inputs(bundle, names) if names else None
        await self._spaces.run(self.workspace.ready)
        if tracking is not None:
            self._tracking = tracking
            await self._restore(tracking, manifest, witness)
        if inputs is not None:
            await self._place(inputs)

    async def _restore(
        self, tracking: FileTrackingConfig, manifest: str | None, witness: Witness | None
    ) -> None:
        """Makes the tree that of the manifest."""
        self._tree = tree = self._tracked(tracking)
        if self._home.former is not None:
            await tree.load()
            try:
                self.restored = await tree.restore(manifest, witness=witness)
            except (errors.FilesRefused, errors.RestoreRefused) as e:
                log.warning("a new workspace is made: %s", e, extra={"action": "restore"})
                await self._move_out()
                self._tree = tree = self._tracked(tracking)
        if self.restored is None and manifest is not None:
            self.restored = await tree.restore(manifest, witness=witness)
        self.manifest = manifest
        await self._spaces.run(homes.furnish, self._home)

    async def _move_out(self) -> None:
        """Leaves the earlier claim's directory as it is, for somebody to look at."""
        spaces = self._spaces
        await spaces.run(homes.give_back, self._home, spaces.owner)
        self._made = False
        fresh = Home(spaces.root, self._home.execution_id, self._home.epoch)
        self._home = await spaces.run(homes.take, fresh, spaces.owner, anew=True)
        self._made = True

    def _tracked(self, tracking: FileTrackingConfig) -> TrackedTree:
        return TrackedTree(
            self._home.files,
            tracking,
            self._spaces.objects,
            beside=self._home.path,
            executor=self._spaces.executor,
            quota_mb=self.isolation.quota_mb,
            listers=self._spaces.listers,
        )

    async def _place(self, inputs: Inputs) -> None:
        strategy, target = self.isolation.strategy, self._home.files / INPUT
        self._inputs = inputs
        self.workspace.inputs = str(inputs.files)
        await self._heal(inputs)

        self._report(await self._spaces.run(_placed, inputs, target, strategy))

    async def _heal(self, inputs: Inputs) -> None:
        self._report(await self._spaces.run(_healed, inputs, self.isolation.strategy))

    def _report(self, changed: list[str]) -> None:
        paths = [f"{INPUT}/{rel}" for rel in changed]
        self.healed.extend(path for path in paths if path not in self.healed)


def _kept(root: Path, bundle: Path | None, names: tuple[str, ...]) -> Inputs:
    try:
        with homes.writing(root):
            return inputs_.keep(root, bundle, names)
    except errors.InvalidRequest as e:  # registration did not look, or the bundle is another one
        raise errors.FilesRefused(e.message, **e.details) from e


def _healed(inputs: Inputs, strategy: Strategy) -> list[str]:
    with homes.writing(inputs.files):
        return inputs.heal(strategy)


def _placed(inputs: Inputs, target: Path, strategy: Strategy) -> list[str]:
    """Puts inputs into a workspace; gives what was changed in the one it is taken over from."""
    with homes.writing(target):
        if not os.path.lexists(target):
            inputs.place(target, strategy)
            return []
        if changed := inputs.changed(target, strategy):
            inputs.replace(target, strategy)
        return changed


@contextmanager
def as_current_directory(workspace: Workspace) -> Iterator[None]:
    """Inside, the workspace is the current directory of the whole process, and `WTB_WORKSPACE`.

    For a process that runs one execution at a time: it is what code that knows nothing of workspaces,
    and the processes it starts, work in.
    """
    before = os.open(os.curdir, os.O_RDONLY)
    named = os.environ.get(WORKSPACE_ENV)
    try:
        os.chdir(workspace.ready())
        os.environ[WORKSPACE_ENV] = os.fspath(workspace)
        yield
    finally:
        os.fchdir(before)
        os.close(before)
        if named is None:
            os.environ.pop(WORKSPACE_ENV, None)
        else:
            os.environ[WORKSPACE_ENV] = named
