"""Keeps and restores a tree in processes that die: `python -m tests.chaos.tree_worker`.

Reads jobs as lines of JSON, runs each in a fork of itself, so that nothing is imported twice, and
answers with a line: how many events the job saw, or that it died.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from wtb_ray.model import FileTrackingConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.restores import Restored
from wtb_ray.trees import TrackedTree

CONFIG = FileTrackingConfig(ignore_patterns=("*.tmp",))


async def work(base: Path, restore: bool, manifest: str | None) -> None:
    async def tell(restored: Restored) -> None:
        with (base / "told").open("a") as told:
            told.writelines(
                f"{kept}\n" for kept in (restored.displaced, *restored.recovered) if kept
            )

    async with ObjectStore(f"file://{base}/objects") as objects:
        tree = TrackedTree(base / "files", CONFIG, objects, beside=base)
        await tree.load()
        if restore:
            await tree.restore(manifest, witness=tell)
        else:
            await tree.snapshot()
        await tree.save()


def die_at(count: int) -> list[int]:
    """Counts what is done to files, and ends the process, like a power cut, before one of these."""
    seen = [0]

    def hook(event: str, _: Any) -> None:
        if event == "open" or event.startswith(("os.", "shutil.")):
            seen[0] += 1
            if seen[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def run(job: dict[str, Any]) -> dict[str, Any]:
    receiving, sending = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(receiving)
        seen = die_at(job["dies_at"])
        asyncio.run(work(Path(job["base"]), job["restore"], job["manifest"]))
        os.write(sending, json.dumps(seen[0]).encode())
        os._exit(0)
    os.close(sending)
    with open(receiving, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(pid, 0)
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert died or not status, "a job failed"
    return {"died": died, "events": json.loads(answer) if answer else None}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
