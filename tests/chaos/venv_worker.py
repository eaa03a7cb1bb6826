"""Uses environments in processes that die: `python -m tests.chaos.venv_worker`.

Reads jobs as lines of JSON, runs each in a fork of itself beside the others, and answers with its
process id. What an environment turned out to be is written to a file that all of them append to.
"""

import asyncio
import json
import os
import random
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from tests.venv_bench import VenvBench, alpha, imported
from wtb_ray import environments, errors, venvs
from wtb_ray.actors.venvs import VenvCache

VERSIONS = ("1.0", "2.0", "3.0")
COUNTED = ("open", "os.", "shutil.", "subprocess.", "fcntl.")


class Worker:
    """One process on the host."""

    def __init__(self, job: dict[str, Any]):
        self.job = job
        self.chance = random.Random(job["seed"])
        self.told = Path(job["told"])

    def tell(self, word: str) -> None:
        with self.told.open("a") as file:
            file.write(f"{word}\n")

    async def run(self) -> None:
        host = VenvBench(Path(self.job["data_dir"]), self.job["url"])
        try:
            async with host.cache(venv_max_gb=self.chance.choice([1e-9, 1e-4, 1])) as cache:
                for _ in range(self.job["commands"]):
                    await self.command(cache)
        except Exception:  # noqa: BLE001  # whatever it is, it is not to happen
            self.tell(f"bad {traceback.format_exc()!r}")

    async def command(self, cache: VenvCache) -> None:
        version = self.chance.choice(VERSIONS)
        what = self.chance.choices(("acquire", "prune", "invalidate"), (8, 3, 1))[0]
        if what == "prune":
            await cache.prune()
            return
        try:
            venv = await cache.acquire(alpha(version), self.job["bundle"], lease_s=60)
            if what == "invalidate":
                await cache.invalidate(venv.venv)
                return
            assert venv.python is not None
            with venvs.hold(venv.python):
                found = await imported(venv.python)
        except errors.Unavailable as e:  # somebody has invalidated it just now
            if e.details.get("reason") not in ("gone", "invalidated"):
                raise
            self.tell("gone")
        else:
            self.tell("used" if found == version else f"bad {found} instead of {version}")


def die(job: dict[str, Any]) -> None:
    """Ends the process, like a power cut, before some event or after some time."""
    seen = [0]

    def hook(event: str, _: Any) -> None:
        if event.startswith(COUNTED):
            seen[0] += 1
            if seen[0] == job["dies_at"]:
                os.kill(os.getpid(), signal.SIGKILL)

    if job["dies_at"]:
        sys.addaudithook(hook)
    if job["dies_after_s"]:
        timer = threading.Timer(job["dies_after_s"], os.kill, args=(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()


def fork(job: dict[str, Any]) -> int:
    pid = os.fork()
    if not pid:
        die(job)
        asyncio.run(Worker(job).run())
        os._exit(0)
    return pid


if __name__ == "__main__":
    environments.protected()
    for line in sys.stdin:
        pids = [fork(job) for job in json.loads(line)]
        ends = [os.waitpid(pid, 0)[1] for pid in pids]
        died = [os.WIFSIGNALED(end) and os.WTERMSIG(end) == signal.SIGKILL for end in ends]
        print(json.dumps(died), flush=True)
