"""Runner processes as they are, and how much work waits for them. Models only."""

from wtb_ray.frozen import Frozen


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
    in_flight: int
