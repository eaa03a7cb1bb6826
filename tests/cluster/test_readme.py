"""The README's example, copied word by word, does what the README says."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from tests.stack import Stack

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_example_runs_as_printed(stack: Stack, tmp_path: Path) -> None:
    blocks = re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "try_it.py"],
        cwd=tmp_path,
        env={**os.environ, "WTB_URL": stack.url},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    status, _, state = lines[0].partition(" ")
    assert status == "COMPLETED"
    assert ast.literal_eval(state) == {"name": "Ada", "greeting": "Hello Ada"}
    assert lines[1] == "1 ['greet'] []"
    assert lines[-3] == "1 greet=loud 1.0"


def test_every_route_is_documented(stack: Stack) -> None:
    table = README[README.index("| route |") : README.index("**gRPC**")]
    for path in httpx.get(f"{stack.url}/openapi.json").json()["paths"]:
        named = [part for part in path.removeprefix("/api/v1").split("/") if part]
        for part in named:
            assert part.startswith("{") or f"/{part}" in table, path
