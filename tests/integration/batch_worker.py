"""A process that works on what waits in a database until it is killed:
`python -m tests.integration.batch_worker URL DIR`."""

import asyncio
import sys
from pathlib import Path

from tests.integration.test_scheduling import LocalRunners
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.settings import Settings


def settings(folder: Path) -> Settings:
    return Settings(
        data_dir=folder, runner_slots=4, runners_per_pool=1, chunk_size=4, lease_ttl_s=1.0
    )


class Runners(LocalRunners):
    """Runners of this process, beside what those of a process that is gone have left in the database."""

    async def kill(self, runner_id: str) -> None:
        if runner_id in self.runners:
            await super().kill(runner_id)


async def main(url: str, folder: Path) -> None:
    runners = Runners(settings(folder), url)
    actors = [kind(settings(folder), url, runners) for kind in (BatchScheduler, ActorLifecycle)]
    await asyncio.Event().wait()
    del actors


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
