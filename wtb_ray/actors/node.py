"""A node's own process: it runs that node, and nothing else, for the graphs of one runner.

It has the node's environment and resources, imports the project's code by itself, and knows no
database: what a call needs comes with it, and what comes of it goes back.
"""

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from wtb_ray import apartness, bundles, secret_values, telemetry, venvs
from wtb_ray.bindings import Apart
from wtb_ray.context import Calls
from wtb_ray.crossing import CallLimits, Ended, NodeCall, packed, perform, unpacked
from wtb_ray.errors import UnstorableValue
from wtb_ray.faults import guarded, traceback_of
from wtb_ray.flocks import Hold
from wtb_ray.graphs import Graphs
from wtb_ray.model import ProjectSpec
from wtb_ray.objects import ObjectStore
from wtb_ray.settings import Settings

SPARE_THREADS: Final = 4
QUIET_POLL_S: Final = 0.02
MOST_CALLS: Final = 16
"""Calls at once, unless the node's resources say otherwise."""


class NodeProcess:
    """One node in a process of its own. `prepare`, then `describe`, or `run` as often as wanted."""

    def __init__(
        self,
        spec: ProjectSpec,
        apart: Apart,
        settings: Settings,
        environment: str,
        venv: Path | None = None,
    ) -> None:
        """A process for one node.

        Args:
            spec: The project version whose code it imports.
            apart: The node.
            settings: Where objects and bundles lie.
            environment: Digest of what it runs in; empty for the bench's own.
            venv: The environment that it runs in, which it keeps from being removed.
        """
        telemetry.configure(settings.log_level)
        self._spec = spec
        self._apart = apart
        self._settings = settings
        self._environment = apart.environment or spec.environment_of_all
        self._digest = environment
        self._venv = venv
        self._hold: Hold | None = None
        self._graphs = Graphs(spec, timeout_s=settings.entry_timeout_s)
        self._runnable: Any = None
        self._calls: dict[str, Calls] = {}
        self._limits: dict[str, CallLimits] = {}
        self._most = apart.resources.at_once() if apart.resources is not None else MOST_CALLS
        self._room = asyncio.Semaphore(self._most)

    async def prepare(self) -> None:
        """Fetches the code and the secrets, without importing anything of the project.

        Raises:
            SecretMissing: A secret of its environment is in no place; names it.
            BundleRejected: The archive is not acceptable.
            UnknownBundle: It is not in the object store.
        """
        if self._venv is not None:
            self._hold = venvs.hold(self._venv)
        if self._environment is not None:
            secret_values.provide(self._environment.secrets)
        executor = ThreadPoolExecutor(self._most + SPARE_THREADS, "node")
        asyncio.get_running_loop().set_default_executor(executor)
        if self._spec.bundle is None:
            return
        async with ObjectStore(self._settings.objects()) as objects:
            root = self._settings.data_dir / "bundles"
            bundles.activate(await bundles.fetch(objects, self._spec.bundle, root))

    async def describe(self) -> apartness.Description:
        """Imports the node and says what it is.

        Raises:
            InvalidRequest: Any of its kinds, as the project's code gave cause.
        """
        found, schema = await asyncio.to_thread(self._graphs.node, self._apart)
        return apartness.describe(self._apart, found, schema, self._environment)

    async def pid(self) -> int:
        """Of this process, for whoever looks for it on its host."""
        return os.getpid()

    async def run(self, call: bytes) -> AsyncGenerator[bytes, None]:
        """Performs a call; gives messages, the last of which is an `Ended`."""
        wanted: NodeCall = unpacked(call)
        calls = self._calls[wanted.id] = Calls()
        limits = CallLimits() if wanted.limited else None
        if limits is not None:
            self._limits[wanted.id] = limits
        try:
            if self._runnable is None:
                found, _ = await asyncio.to_thread(self._graphs.node, self._apart)
                self._runnable = guarded(found)
            async with (
                self._room,
                aclosing(perform(wanted, self._runnable, calls, limits)) as messages,
            ):
                async for message in messages:
                    if isinstance(message, Ended):
                        message = dataclasses.replace(message, environment=self._digest)
                    yield _sent(message)
        finally:
            self._limits.pop(wanted.id, None)
            if not calls.running:
                del self._calls[wanted.id]

    async def grant(self, call_id: str, granted: bytes) -> None:
        """Tells a call that it may go on, or why not; one that is over does not hear it."""
        if (limits := self._limits.get(call_id)) is not None:
            limits.granted(unpacked(granted))

    async def quiet(self, call_id: str, within_s: float) -> bool:
        """Whether nothing of a call is at work any more, in no thread either, or ends in this time."""
        for _ in range(int(within_s / QUIET_POLL_S)):
            calls = self._calls.get(call_id)
            if calls is None or not calls.running:
                self._calls.pop(call_id, None)
                return True
            await asyncio.sleep(QUIET_POLL_S)
        return False


def _sent(message: Any) -> bytes:
    try:
        return packed(message)
    except UnstorableValue as e:  # the node's fault, as any other exception of it
        return packed(Ended(error=TypeError(e.message), traceback=traceback_of(e)))
