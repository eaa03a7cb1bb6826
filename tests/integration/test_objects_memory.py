"""Files of any size go in and out of a store with little memory.

`WTB_TEST_FILE_MIB=2048` is the long form; what is held at a time does not depend on the size.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.object_bench import CREDENTIALS, moto

MIB = int(os.environ.get("WTB_TEST_FILE_MIB", "192"))
GROWTH_MIB = 80

ROUND_TRIP = """
import asyncio, os, resource, sys
from pathlib import Path
from wtb_ray.objects import ObjectStore

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

async def main(url, folder, mib, block):
    async with ObjectStore(url) as objects:
        await objects.get(await objects.put(b"connected"))
        source, target = folder / "source", folder / "target"
        with source.open("wb") as file:
            for number in range(mib):
                file.write(block[number % 9973:] + block[:number % 9973])
        before = peak()
        digest = await objects.put_file(source)
        source.unlink()
        await objects.get_file(digest, target)
        print(peak() - before, target.stat().st_size >> 20)
        target.unlink()

url, folder, mib, kind = sys.argv[1:]
block = bytes(1 << 20) if kind == "zeros" else os.urandom(1 << 20)
asyncio.run(main(url, Path(folder), int(mib), block))
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    with moto() as options:
        yield options


def growth(url: str, folder: Path, mib: int, kind: str, **env: str) -> int:
    """MiB by which a process grew that stored and fetched a file, which came back whole."""
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, url, folder, str(mib), kind],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown, size = done.stdout.split()
    assert int(size) == mib
    return int(grown)


@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_large_files_in_a_directory(tmp_path: Path, kind: str) -> None:
    assert growth(f"file://{tmp_path}/objects", tmp_path, MIB, kind) < GROWTH_MIB


def test_large_files_in_s3(s3: dict[str, Any], tmp_path: Path) -> None:
    env = {
        "AWS_ENDPOINT_URL": s3["endpoint_url"],
        "AWS_ACCESS_KEY_ID": CREDENTIALS["key"],
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS["secret"],
    }
    assert growth("s3://wtb-objects/large", tmp_path, MIB // 2, "noise", **env) < GROWTH_MIB
