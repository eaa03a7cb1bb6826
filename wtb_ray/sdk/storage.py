"""Stored objects: what is there, what can go, whether it is whole; for both benches."""

import abc
from collections.abc import Callable, Sequence
from typing import TypeVar

from wtb_ray import api, control, storage_api
from wtb_ray.sdk import calls, flows, steering, steering_calls
from wtb_ray.sdk.calls import Call, get, quoted
from wtb_ray.sdk.flows import Flow, Patience, ask, made
from wtb_ray.sdk.steering_calls import operating

Answer = TypeVar("Answer")

OnCollection = Callable[[storage_api.CollectionReport], None]
"""Called now and then with how far a collection is."""


def stats() -> Call[storage_api.FilesStats]:
    return get("/files/stats", storage_api.FilesStats)


def commits(
    id: str, after: str | None, limit: int = calls.PAGE
) -> Call[api.Page[storage_api.CommitEntry]]:
    kind = api.Page[storage_api.CommitEntry]
    return get(f"/executions/{quoted(id)}/commits", kind, after=after, limit=limit)


def collected(
    dry_run: bool, grace_s: float | None, progress: OnCollection | None
) -> Flow[storage_api.CollectionReport]:
    request = made(storage_api.CollectRequest, dry_run=dry_run, grace_s=grace_s)
    call = operating("POST", "/files/collect", request, storage_api.CollectionReport)
    found = yield from ask(call)
    if isinstance(found, storage_api.CollectionReport):
        return found
    patience, operation = Patience(), found
    while operation.status == "RUNNING":
        if progress is not None and not dry_run:
            for newest in (yield from ask(stats())).collections[:1]:
                progress(newest)
        yield patience.pause(f"operation {operation.id}", operation.status)
        operation = yield from ask(steering_calls.operation(operation.id))
    done: storage_api.CollectionReport = steering.result_of(operation, storage_api.CollectionReport)
    return done


def rehashed(
    sample: int | None, digests: Sequence[str] | None, repair: bool
) -> Flow[storage_api.RehashReport]:
    given = list(digests) if digests is not None else None
    request = made(storage_api.RehashRequest, sample=sample, digests=given, repair=repair)
    call: Call[storage_api.RehashReport | control.Operation] = operating(
        "POST", "/files/rehash", request, storage_api.RehashReport
    )
    return steering.operated(call, storage_api.RehashReport)


class Storing(abc.ABC):
    """A part of `WTBTestBench`."""

    @abc.abstractmethod
    def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call."""

    @abc.abstractmethod
    def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    def files_stats(self) -> storage_api.FilesStats:
        """What is known of the stored objects: collections, leases, damage."""
        return self.send(stats())

    def commits(self, id: str) -> list[storage_api.CommitEntry]:
        """The file trees of an execution's checkpoints with their weights, newest first."""
        return self.flow(flows.listed(lambda a, n: commits(id, a, n)))

    def collect_files(
        self,
        dry_run: bool = True,
        grace_s: float | None = None,
        progress: OnCollection | None = None,
    ) -> storage_api.CollectionReport:
        """Delete the stored objects that nothing needs, or count them.

        Args:
            dry_run: Only count them.
            grace_s: What was written later than so many seconds ago stays; unset: by the settings.
            progress: Called now and then with how far it is.

        Raises:
            Conflict: Another collection is at work.
        """
        return self.flow(collected(dry_run, grace_s, progress))

    def rehash_files(
        self,
        sample: int | None = None,
        digests: Sequence[str] | None = None,
        repair: bool = False,
    ) -> storage_api.RehashReport:
        """Read stored objects and check them against their digests.

        Args:
            sample: So many, chosen at random; unset: all.
            digests: These, missing ones too.
            repair: Replace damaged ones from other copies.
        """
        return self.flow(rehashed(sample, digests, repair))


class AsyncStoring(abc.ABC):
    """A part of `AsyncTestBench`; the names are those of `Storing`."""

    @abc.abstractmethod
    async def send(self, call: Call[Answer]) -> Answer:
        """The answer to one call."""

    @abc.abstractmethod
    async def flow(self, flow: Flow[Answer]) -> Answer:
        """The result of several calls and of the pauses between them."""

    async def files_stats(self) -> storage_api.FilesStats:
        """What is known of the stored objects: collections, leases, damage."""
        return await self.send(stats())

    async def commits(self, id: str) -> list[storage_api.CommitEntry]:
        """The file trees of an execution's checkpoints with their weights, newest first."""
        return await self.flow(flows.listed(lambda a, n: commits(id, a, n)))

    async def collect_files(
        self,
        dry_run: bool = True,
        grace_s: float | None = None,
        progress: OnCollection | None = None,
    ) -> storage_api.CollectionReport:
        """Delete the stored objects that nothing needs, or count them; see `Storing`."""
        return await self.flow(collected(dry_run, grace_s, progress))

    async def rehash_files(
        self,
        sample: int | None = None,
        digests: Sequence[str] | None = None,
        repair: bool = False,
    ) -> storage_api.RehashReport:
        """Read stored objects and check them against their digests; see `Storing`."""
        return await self.flow(rehashed(sample, digests, repair))
