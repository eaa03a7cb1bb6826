"""Runner processes, the work that waits for them, and how both are shared out. Pure: no clock, no I/O.

Whoever has a higher priority comes first, strictly; among equals the one that has least. What runs is
never taken away for that: a share is had as room comes free.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from wtb_ray.frozen import Frozen

Pool = tuple[str, bool]
"""A version, and whether its runners run suspects alone."""


class Demand(Frozen):
    """Work that waits for runners of one version."""

    version: str
    pending: int
    """Executions that may start now."""
    suspects: int
    """Of these, the ones that must run alone."""
    reserved: int = 0
    """Of these, the ones whose own process is kept for them."""
    cells: int
    """Cells of open batches that have no execution yet."""
    priority: int = 0
    """The highest of all that."""


class Runner(Frozen):
    """A runner process and its lease."""

    id: str
    pool: str
    status: str
    slots: int
    solo: bool
    host: str
    pid: int | None
    epoch: int
    expired: bool
    overdue_s: float = 0.0
    """Seconds since the lease ran out; 0 while it holds."""
    idle_s: float = 0.0
    """Seconds since it last was given work."""
    reserved_for: str | None = None
    """The paused execution that its process is kept for; it gets no other work."""
    configuration: str = ""
    """Digest of the settings that it was made with."""
    short: str | None = None
    """Whose memory it is short of, `process` or `host`; then it takes no more work."""
    left_s: float = 0.0
    """Seconds until the lease runs out; below 0 it has."""
    in_flight: int


class Party(Frozen):
    """A batch that work of one version waits in, or all executions without a batch, by priority."""

    batch_id: str | None
    priority: int
    pending: int
    """Executions that may start now."""
    cells: int
    """Cells that have no execution yet."""
    running: int


class Share(Frozen):
    """How many executions are to be started for a party."""

    batch_id: str | None
    priority: int
    count: int


class Room(Frozen):
    """How many more runners the cluster has room for."""

    runners: int
    reason: str | None = None
    """Why there is none."""


class Want(Frozen):
    """How many runners a pool has, and how many it could use."""

    pool: Pool
    project: str
    priority: int
    have: int
    wanted: int


def shares(parties: Sequence[Party], room: int) -> list[Share]:
    """Divides free slots: one after the other to who has fewest, running and given, of the highest priority.

    Among equals it is the first one's turn. Whoever gets none has no share.
    """
    given: Counter[int] = Counter()
    waiting = [party.pending + party.cells for party in parties]
    for priority in sorted({party.priority for party in parties}, reverse=True):
        peers = [i for i, party in enumerate(parties) if party.priority == priority]
        while room and (open_ := [i for i in peers if given[i] < waiting[i]]):
            given[min(open_, key=lambda i: parties[i].running + given[i])] += 1
            room -= 1
    return [
        Share(batch_id=parties[i].batch_id, priority=parties[i].priority, count=given[i])
        for i in sorted(given)
    ]


def grants(wants: Sequence[Want], most: int) -> dict[Pool, int]:
    """How many runners each pool is to have of `most`: by priority, then equally by project and pool."""
    granted: dict[Pool, int] = {want.pool: 0 for want in wants}
    of_project: Counter[str] = Counter()
    for priority in sorted({want.priority for want in wants}, reverse=True):
        peers = [want for want in wants if want.priority == priority]
        while most > 0 and (open_ := [w for w in peers if granted[w.pool] < w.wanted]):
            # Among equals the one that has more keeps it, so that nothing is moved in vain.
            next_ = min(
                open_, key=lambda w: (of_project[w.project], granted[w.pool], -w.have, w.pool)
            )
            granted[next_.pool] += 1
            of_project[next_.project] += 1
            most -= 1
    return granted


def surplus(wants: Sequence[Want], granted: Mapping[Pool, int], most: int) -> dict[Pool, int]:
    """How many runners each pool is to give up so that others get what they were granted."""
    lacking = sum(max(0, granted[want.pool] - want.have) for want in wants)
    needed = lacking - max(0, most - sum(want.have for want in wants))
    given_up: dict[Pool, int] = {}
    for want in sorted(wants, key=lambda w: granted[w.pool] - w.have):
        count = min(max(0, want.have - granted[want.pool]), max(0, needed))
        if count:
            given_up[want.pool] = count
            needed -= count
    return given_up
