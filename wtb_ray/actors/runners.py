"""What the scheduler and the lifecycle need of runner processes, whoever makes them."""

from typing import Any, Protocol

from wtb_ray.actors.pool import Worker
from wtb_ray.fleet import Room, Runner
from wtb_ray.model import ProjectSpec


class Runners(Protocol):
    """Starts, finds and ends runner processes. Implemented once, on Ray, in `wtb_ray.cluster`."""

    async def spawn(self, spec: ProjectSpec, *, solo: bool = False) -> str:
        """Starts a runner for this version and waits until it is ready; gives its id.

        Raises:
            EntryFailed: Its code cannot be imported, or took too long.
            RunnerUnavailable: The process did not start.
            ResourcesUnavailable: No host has what a runner needs.
        """
        ...

    async def room(self) -> Room:
        """How many more runners could be placed now, and why none can."""
        ...

    def worker(self, runner: Runner) -> Worker:
        """The runner as a worker of a pool."""
        ...

    async def alive(self, runner_id: str) -> bool:
        """Whether the process can still act. False is final."""
        ...

    async def drain(self, runner_id: str) -> None:
        """Asks the runner to give its work back at the next boundaries, and to end."""
        ...

    async def ask(self, runner_id: str, method: str, *args: Any) -> Any:
        """What a runner's method gives.

        Raises:
            WTBError: What it raised.
            RunnerUnavailable: The runner is gone, or died over it.
        """
        ...

    async def kill(self, runner_id: str) -> None:
        """Ends the process at once. Killing what is dead does nothing."""
        ...
