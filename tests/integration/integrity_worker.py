"""A process that checks, says so, and repairs: `python -m tests.integration.integrity_worker URL DIR`."""

import asyncio
import sys
from pathlib import Path

from tests.integration.integrity_bench import Names, settings
from wtb_ray.actors.integrity import IntegrityChecker


async def main(url: str, folder: Path) -> None:
    checker = IntegrityChecker(settings(folder), url, Names(), pause_s=0.01)
    await checker.check()
    print("checked", flush=True)
    await checker.repair(dry_run=False)
    print("repaired", flush=True)
    await checker.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
