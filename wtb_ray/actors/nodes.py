"""The processes of nodes that run apart from one runner: made when first called, ended when idle.

Each belongs to the runner: it ends with it, whatever happens. One that dies fails no execution: what
it ran is given back and tried again. One in which a cancelled call does not end gets no further
calls, and is killed once nobody else is in it.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from contextvars import Context
from typing import Final, Protocol

from wtb_ray import errors
from wtb_ray.actors.limiting import Grants
from wtb_ray.apartness import Description
from wtb_ray.bindings import Apart
from wtb_ray.context import running
from wtb_ray.crossing import Asked, Ended, Left, Message, NodeCall, packed, unpacked
from wtb_ray.model import ProjectSpec

log = logging.getLogger(__name__)

QUIET_S: Final = 1.0
"""How long a cancelled call may take to end before its process is given up."""
REAP_S: Final = 1.0


class NodeActor(Protocol):
    """The process of a node."""

    environment: str
    """Digest of what is installed there."""

    async def describe(self) -> Description:
        """What the node says of itself.

        Raises:
            InvalidRequest: Any of its kinds, as the project's code gave cause.
            NodeActorDied: The process ended over it.
        """
        ...

    def run(self, call: bytes) -> AsyncGenerator[bytes, None]:
        """Performs a call; closing the generator cancels it.

        Raises:
            NodeActorDied: The process ended meanwhile.
        """
        ...

    async def quiet(self, call_id: str, within_s: float) -> bool:
        """Whether nothing of a call is at work any more, or comes to its end in this time."""
        ...

    async def grant(self, call_id: str, granted: bytes) -> None:
        """Tells a call that waits for a limit that it may go on, or why not."""
        ...

    async def kill(self) -> None:
        """Ends the process at once."""
        ...


class NodeActors(Protocol):
    """Makes processes of nodes. Implemented once, on Ray, in `wtb_ray.placement`."""

    async def spawn(self, spec: ProjectSpec, apart: Apart, *, describing: bool) -> NodeActor:
        """Starts the process of a node with its environment, and its resources unless it only describes.

        Raises:
            EnvironmentFailed: Its environment cannot be built.
            SecretMissing: A secret is not there; names it.
            ResourcesUnavailable: No host has what it asks for.
            NodeActorDied: The process did not start.
        """
        ...


@dataclasses.dataclass(eq=False)
class _Member:
    actor: NodeActor
    apart: Apart
    calls: int = 0
    idle_since: float = dataclasses.field(default_factory=time.monotonic)
    retired: bool = False


class Nodes:
    """The processes of the nodes of one runner."""

    def __init__(
        self, spec: ProjectSpec, actors: NodeActors | None, *, idle_s: float, resting_s: float
    ) -> None:
        """Those of one project version.

        Args:
            spec: The version.
            actors: Makes them; None: there can be none.
            idle_s: How long one that holds resources stays without calls.
            resting_s: How long any other does.
        """
        self._spec = spec
        self._actors = actors
        self._idle_s = idle_s
        self._resting_s = resting_s
        self._members: dict[str, _Member] = {}
        self._spawning: dict[str, asyncio.Task[_Member]] = {}
        self._reaping: asyncio.Task[None] | None = None
        self._environments: dict[str, str] = {}

    async def describe(self, apart: Apart) -> Description:
        """What a node says of itself in its environment; its process ends again.

        Raises:
            InvalidRequest: Any of its kinds, as its environment or code gave cause.
        """
        actor = await self._made(apart, describing=True)
        try:
            return await actor.describe()
        finally:
            await actor.kill()

    async def call(self, apart: Apart, call: NodeCall) -> AsyncGenerator[Message, None]:
        """Has a call performed; the last message is an `Ended`.

        Cancelling it cancels the node, and waits a moment for its end.

        Raises:
            NodeActorDied: Its process died, or did not start.
            ResourcesUnavailable: No host has what it asks for.
        """
        data = packed(call)
        member = await self._member(apart)
        member.calls += 1
        run = running()
        grants = Grants(None if run is None else run.limits, member.actor, call.id)
        ended = False
        try:
            async with aclosing(member.actor.run(data)) as parts:
                async for part in parts:
                    message: Message = unpacked(part)
                    ended = isinstance(message, Ended)
                    if isinstance(message, Asked | Left):
                        grants.hear(message)
                    else:
                        yield message
        except errors.NodeActorDied:
            ended = True
            self._drop(apart.key, member)
            raise
        finally:
            grants.close()
            if not ended:
                await asyncio.shield(self._settle(apart.key, member, call.id))
            member.calls -= 1
            member.idle_since = time.monotonic()
            if member.retired and not member.calls:
                await asyncio.shield(member.actor.kill())

    def environment(self, apart: Apart) -> str | None:
        """Digest of what is installed where a node ran last, if it did."""
        return self._environments.get(apart.key)

    async def release(self, keys: Collection[str]) -> list[str]:
        """Ends processes that nobody is in; gives the keys of those that it ended."""
        found = [k for k in keys if (m := self._members.get(k)) is not None and not m.calls]
        for key in found:
            await self._members.pop(key).actor.kill()
        return found

    def held(self, keys: Collection[str]) -> bool:
        """Whether any of these has a process."""
        return any(key in self._members for key in keys)

    async def close(self) -> None:
        """Ends all of them."""
        if self._reaping is not None:
            self._reaping.cancel()
        for task in self._spawning.values():
            task.cancel()
        await asyncio.gather(*self._spawning.values(), return_exceptions=True)
        members = list(self._members.values())
        self._members.clear()
        await asyncio.gather(*(m.actor.kill() for m in members), return_exceptions=True)

    async def _member(self, apart: Apart) -> _Member:
        """Whoever comes while one is being made waits for it, and for no second one."""
        key = apart.key
        if (found := self._members.get(key)) is not None:
            return found
        task = self._spawning.get(key)
        if task is None:
            # In contexts of their own: that of a node would keep its graph for as long as they run.
            loop = asyncio.get_running_loop()
            task = self._spawning[key] = loop.create_task(self._spawn(apart), context=Context())
            task.add_done_callback(lambda _: self._spawning.pop(key, None))
        return await asyncio.shield(task)

    async def _spawn(self, apart: Apart) -> _Member:
        member = _Member(await self._made(apart, describing=False), apart)
        self._members[apart.key] = member
        self._environments[apart.key] = member.actor.environment
        if self._reaping is None:
            loop = asyncio.get_running_loop()
            self._reaping = loop.create_task(self._reap(), context=Context())
        return member

    async def _made(self, apart: Apart, *, describing: bool) -> NodeActor:
        if self._actors is None:
            raise errors.UnsupportedNode(
                f"node {apart.node!r} needs an actor of its own, and there are none here",
                field=apart.node,
                reason="no actors",
            )
        return await self._actors.spawn(self._spec, apart, describing=describing)

    def _drop(self, key: str, member: _Member) -> None:
        member.retired = True
        if self._members.get(key) is member:
            del self._members[key]

    async def _settle(self, key: str, member: _Member, call_id: str) -> None:
        """Waits for a cancelled call to end; gives its process up where it does not."""
        try:
            quiet = await member.actor.quiet(call_id, QUIET_S)
        except errors.Unavailable:
            quiet = False
        if not quiet:
            log.warning("a call of node %s did not end", member.apart.node)
            self._drop(key, member)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_S)
            now = time.monotonic()
            for key, member in list(self._members.items()):
                asked = member.apart.resources is not None and member.apart.resources.asked
                limit = self._idle_s if asked else self._resting_s
                if not member.calls and now - member.idle_since > limit:
                    self._drop(key, member)
                    try:
                        await member.actor.kill()
                    except Exception:  # the others must be looked at all the same
                        log.exception("node %s not ended", member.apart.node)
