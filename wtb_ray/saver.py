"""The LangGraph checkpointer of the bench: group commit, behind the fence of an execution.

A run is attached by thread before LangGraph is entered; the saver refuses all other threads, and
from then on a run that lost its execution to another owner gets `Fenced` and writes nothing. The
newest checkpoint is the head in the execution's row, never the highest id. Each root checkpoint
commits with its step and event. With `unfenced=True` it is a plain LangGraph saver of the same tables.
"""

import asyncio
import random
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar, cast

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.base import SELECT_SQL, BasePostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import ERROR
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from wtb_ray import channels, errors, secret_values
from wtb_ray.attachments import SEPARATOR, Attachment, Boundary, without_output_of_failed
from wtb_ray.commits import SQL, Claim, Commits, Put, Row, Writes
from wtb_ray.db import Database
from wtb_ray.serde import Serializer
from wtb_ray.views import read_state

__all__ = ["Attachment", "Boundary", "Saver", "read_state"]

Result = TypeVar("Result")

LATEST: Final = "WHERE thread_id = %s AND checkpoint_ns = %s ORDER BY checkpoint_id DESC LIMIT 1"
LEAF: Final = (
    "WHERE thread_id = %s AND checkpoint_ns = %s AND NOT EXISTS ("
    "SELECT FROM checkpoints child WHERE child.thread_id = checkpoints.thread_id"
    " AND child.checkpoint_ns = checkpoints.checkpoint_ns"
    " AND child.parent_checkpoint_id = checkpoints.checkpoint_id"
    ") ORDER BY checkpoint_id DESC LIMIT 1"
)
BY_ID: Final = "WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s"


class _Shared:
    """What a saver and the clones that LangGraph makes of it have in common."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.commits = Commits(database)
        self.attachments: dict[str, Attachment] = {}
        self.loop = _running_loop()
        # Nodes that call random.seed() must not make versions repeat.
        self.random = random.Random(secrets.randbits(128))  # noqa: S311


_RUN: ContextVar[tuple[_Shared, Attachment] | None] = ContextVar("wtb_run", default=None)
"""The run that a task belongs to, by saver: an older run of the same thread is told apart by it."""


class Saver(BasePostgresSaver):
    """The checkpointer of one process and event loop; clones share attachments and commits."""

    def __init__(
        self, db: Database, *, unfenced: bool = False, serde: SerializerProtocol | None = None
    ) -> None:
        super().__init__(serde=serde or Serializer())
        self.unfenced = unfenced
        self._shared = _Shared(db)

    def attach(self, attachment: Attachment) -> None:
        """Lets the calling task, and what it starts, run this thread with LangGraph.

        It replaces an earlier attachment of the thread; a run of that one, if it still lives in this
        process, is fenced from now on.
        """
        self._shared.loop = asyncio.get_running_loop()
        self._shared.attachments[attachment.thread_id] = attachment
        _RUN.set((self._shared, attachment))

    def detach(self, thread_id: str) -> None:
        """Refuses the thread from now on; not for a newer run than that of the calling task."""
        if not self._is_superseded(thread_id):
            attachment = self._shared.attachments.pop(thread_id, None)
            if attachment is not None:
                self._shared.commits.failed.pop(attachment.claim, None)

    def _is_superseded(self, thread_id: str) -> bool:
        shared, attachment = _RUN.get() or (None, None)
        return (
            shared is self._shared
            and attachment is not None
            and attachment.thread_id == thread_id
            and self._shared.attachments.get(thread_id) is not attachment
        )

    async def flush(self, thread_id: str) -> None:
        """Returns when everything of the thread is stored.

        Raises:
            Fenced: Another owner holds the execution.
            UnstorableValue: A pending write could not be stored.
            DatabaseUnavailable: The database was away for too long.
        """
        attachment = self._attachment(thread_id)
        last = attachment.last if attachment else None
        if last is not None and (not last.done() or last.cancelled()):
            await self._shared.commits.drain()  # a cancelled run does not wait for its items
        if failure := self._shared.commits.failed.get(_run_of(thread_id, attachment)):
            raise failure

    def _attachment(self, thread_id: str) -> Attachment | None:
        attachment = self._shared.attachments.get(thread_id)
        if attachment is None:
            if self.unfenced:
                return None
            raise errors.Fenced(
                f"thread {thread_id} is not attached: only a run that holds its execution"
                " may use its checkpoints",
                thread_id=thread_id,
                reason="unattached",
            )
        if attachment.fenced or self._is_superseded(thread_id):
            raise errors.Fenced(f"{thread_id} is held by another owner now", thread_id=thread_id)
        return attachment

    # --- writing ---

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Stores a checkpoint; a root checkpoint with its files, the head, its step and its event.

        No node runs meanwhile: LangGraph waits for it before the next super-step.
        """
        configurable = config["configurable"]
        thread_id, ns = configurable["thread_id"], configurable.get("checkpoint_ns", "")
        attachment = self._attachment(thread_id)
        ended, manifest = time.monotonic(), None
        if attachment is not None and attachment.snapshot is not None and not ns:
            manifest = await attachment.snapshot(metadata)
        try:
            self._raise_failed(thread_id, attachment)
            item = self._put(config, checkpoint, metadata, new_versions, attachment)
            if attachment is not None and not ns:
                following = attachment.boundary(checkpoint, metadata, config)
                item.step = attachment.step(checkpoint, metadata, following, ended, manifest)
                item.lease = attachment.lease.id if attachment.lease is not None else None
            future = self._shared.commits.submit(item)
        except BaseException:
            if attachment is not None and not ns:
                attachment.let_go()
            raise
        if attachment is not None:
            attachment.note(ns, future)
            breakpoints = await self._settle(attachment, future)
            if item.step is not None:
                attachment.stored(item.step.head)
                if attachment.on_breakpoints is not None:
                    attachment.on_breakpoints(breakpoints)
        else:
            try:
                await future
            finally:
                self._shared.commits.failed.pop(thread_id, None)
        return {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": ns,
                "checkpoint_id": checkpoint["id"],
            }
        }

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        attachment: Attachment | None,
    ) -> Put:
        configurable = config["configurable"]
        forbidden = attachment.forbidden_prefix if attachment else None
        text, blobs = channels.split(self.serde, checkpoint, new_versions, forbidden)
        return Put(
            thread_id=configurable["thread_id"],
            ns=configurable.get("checkpoint_ns", ""),
            checkpoint_id=checkpoint["id"],
            parent=configurable.get("checkpoint_id"),
            claim=attachment.claim if attachment else None,
            checkpoint=(
                text,
                channels.json_text(get_serializable_checkpoint_metadata(config, metadata)),
            ),
            blobs=blobs,
            size=len(text) + sum(len(blob[3]) for blob in blobs),
        )

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Stores what a task wrote; a failure is also raised by the thread's next `aput`."""
        configurable = config["configurable"]
        thread_id, ns = configurable["thread_id"], configurable.get("checkpoint_ns", "")
        attachment = self._attachment(thread_id)
        checkpoint_id = configurable["checkpoint_id"]
        if attachment is not None:
            attachment.observe(task_id, writes)
            if not ns and not attachment.takes(task_id, checkpoint_id):
                return
            attachment.within = True
            writes = without_output_of_failed(writes)
        try:
            rows = [
                self._write_row(index, channel, value, task_id, task_path, attachment)
                for index, (channel, value) in enumerate(writes)
            ]
        except errors.UnstorableValue as e:
            self._shared.commits.failed.setdefault(_run_of(thread_id, attachment), e)
            raise
        item = Writes(
            thread_id=thread_id,
            ns=ns,
            checkpoint_id=checkpoint_id,
            claim=attachment.claim if attachment else None,
            rows=rows,
            size=sum(len(row[5]) for row in rows),
            spare=attachment is not None,
        )
        future = self._shared.commits.submit(item)
        if attachment is None:
            await future
        else:
            attachment.last = future
            await self._settle(attachment, future)

    def _write_row(
        self,
        index: int,
        channel: str,
        value: Any,
        task_id: str,
        task_path: str,
        attachment: Attachment | None,
    ) -> Row:
        if channel == ERROR and isinstance(value, BaseException):
            value = secret_values.blacked_out(repr(value))
        forbidden = attachment.forbidden_prefix if attachment else None
        return (
            *(task_id, task_path, WRITES_IDX_MAP.get(channel, index), channel),
            *channels.dump(self.serde, channel, value, forbidden),
        )

    def _raise_failed(self, thread_id: str, attachment: Attachment | None) -> None:
        failed = self._shared.commits.failed
        failure = failed.get(attachment.claim) if attachment else failed.pop(thread_id, None)
        if failure is not None:
            raise failure

    async def _settle(self, attachment: Attachment, future: "asyncio.Future[str]") -> list[str]:
        """Waits for a commit; what others want comes back with it, gives the breakpoints."""
        try:
            attachment.wanted, *breakpoints = (await future).split(SEPARATOR)
        except errors.Fenced:
            attachment.fenced = True
            raise
        if attachment.wanted != "run" and attachment.on_wanted is not None:
            attachment.on_wanted(attachment.wanted)
        return breakpoints

    def get_next_version(self, current: str | None, channel: None) -> str:
        number = int(str(current).partition(".")[0]) + 1 if current is not None else 1
        return f"{number:032}.{self._shared.random.random():016}"

    # --- reading ---

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint of the config: by id, or the newest of its thread and namespace."""
        configurable = config["configurable"]
        thread_id, ns = configurable["thread_id"], configurable.get("checkpoint_ns", "")
        attachment = self._attachment(thread_id)
        id = get_checkpoint_id(config)
        where = LATEST
        if attachment is not None and not id:
            if attachment.fresh and not (
                attachment.head if not ns else ns in attachment.namespaces
            ):
                return None
            id, where = (None, LEAF) if ns else (attachment.head, BY_ID)
        arguments = (thread_id, ns, id) if id else (thread_id, ns)
        async with self._cursor() as cursor:
            await cursor.execute(SELECT_SQL + (BY_ID if id else where), arguments)
            row = await cursor.fetchone()
            if row is None:
                if attachment is not None and id and id == attachment.head and not ns:
                    raise errors.UnknownCheckpoint(
                        f"the head {id} of {thread_id} is not stored", checkpoint_id=id
                    )
                return None
            await self._migrate(cursor, [row])
            if attachment is not None and not ns and id == attachment.newest:
                await _load_tasks(cursor, attachment)
        return self._tuple(row)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints by id, newest first."""
        if config is not None:
            self._attachment(config["configurable"]["thread_id"])
        elif not self.unfenced:
            raise errors.Fenced("a fenced saver lists one thread", reason="unattached")
        where, arguments = self._search_where(config, filter, before)
        query = SELECT_SQL + where + " ORDER BY checkpoint_id DESC"
        if limit is not None:
            query += " LIMIT %s"
            arguments.append(int(limit))
        async with self._cursor() as cursor:
            await cursor.execute(query, arguments)
            rows = await cursor.fetchall()
            await self._migrate(cursor, rows)
        for row in rows:
            yield self._tuple(row)

    async def adelete_thread(self, thread_id: str) -> None:
        """Deletes a thread that no execution has.

        Raises:
            Refused: This saver serves executions; their threads are deleted with them.
        """
        if not self.unfenced:
            raise errors.Refused("threads of executions are deleted with their executions")
        await self._shared.commits.drain()
        async with self._shared.database.transaction() as conn:
            for name in ("delete_writes", "delete_blobs", "delete_checkpoints"):
                await conn.execute(SQL[name], (thread_id,))

    @asynccontextmanager
    async def _cursor(self) -> AsyncIterator[AsyncCursor[DictRow]]:
        async with (
            self._shared.database.connection() as conn,
            conn.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor

    async def _migrate(self, cursor: AsyncCursor[DictRow], rows: Sequence[DictRow]) -> None:
        """Gives checkpoints of old LangGraph versions the sends that their parents hold."""
        old: dict[tuple[str, str], list[DictRow]] = defaultdict(list)
        for row in rows:
            if row["checkpoint"]["v"] < 4 and row["parent_checkpoint_id"]:
                old[row["thread_id"], row["parent_checkpoint_id"]].append(row)
        for (thread_id, parent), children in old.items():
            await cursor.execute(self.SELECT_PENDING_SENDS_SQL, (thread_id, [parent]))
            async for sends in cursor:
                for row in children:
                    row["channel_values"] = row["channel_values"] or []
                    self._migrate_pending_sends(
                        sends["sends"], row["checkpoint"], row["channel_values"]
                    )

    def _tuple(self, row: DictRow) -> CheckpointTuple:
        checkpoint = row["checkpoint"]
        place = {"thread_id": row["thread_id"], "checkpoint_ns": row["checkpoint_ns"]}
        parent = row["parent_checkpoint_id"]
        return CheckpointTuple(
            config={"configurable": {**place, "checkpoint_id": row["checkpoint_id"]}},
            checkpoint=cast(
                Checkpoint,
                {
                    **checkpoint,
                    "channel_values": {
                        **(checkpoint.get("channel_values") or {}),
                        **self._load_blobs(row["channel_values"]),
                    },
                },
            ),
            metadata=row["metadata"],
            parent_config={"configurable": {**place, "checkpoint_id": parent}} if parent else None,
            pending_writes=self._load_writes(row["pending_writes"]),
        )

    # --- for synchronous code of nodes, which runs in threads ---

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        loop = self._shared.loop
        if loop is None or loop is _running_loop():
            work.close()
            raise errors.ConfigurationError(
                "the saver's synchronous methods are for other threads than its event loop's;"
                " use `await graph.ainvoke(...)` there"
            )
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._wait(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        yield from self._wait(_all(self.alist(config, filter=filter, before=before, limit=limit)))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._wait(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        self._wait(self.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._wait(self.adelete_thread(thread_id))


def _run_of(thread_id: str, attachment: Attachment | None) -> Claim | str:
    return attachment.claim if attachment else thread_id


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _all(items: AsyncIterator[Result]) -> Sequence[Result]:
    return [item async for item in items]


async def _load_tasks(cursor: AsyncCursor[DictRow], attachment: Attachment) -> None:
    """The tasks that follow the head a run begins with, from its own or its parent's branch."""
    if attachment.next_tasks or attachment.head is None:
        return
    await cursor.execute(
        SQL["tasks"], {"thread": attachment.thread_id, "id": attachment.head}, binary=False
    )
    row = await cursor.fetchone()
    if row is not None:
        attachment.next_tasks = tuple((id, name) for id, name in orjson.loads(row["next_tasks"]))
