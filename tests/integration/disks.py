"""Disks that tests fill."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of this size at a new directory; the test is skipped where none can be had."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("SKIPPED(mount): a small file system needs root")
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "wtb-test", place],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"SKIPPED(mount): {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
