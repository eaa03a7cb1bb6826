"""Control and time travel on the real stack: runners are Ray actors, commands cross processes."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests import steered
from tests.stack import Stack
from wtb_ray import errors
from wtb_ray.sdk import AsyncTestBench, WorkflowProject


@pytest_asyncio.fixture
async def bench(stack: Stack, tmp_path: Path) -> AsyncIterator[AsyncTestBench]:
    shutil.copy(steered.__file__, tmp_path / "steered.py")
    async with AsyncTestBench(stack.url) as bench:
        project = WorkflowProject("steered", "steered:line", root=tmp_path)
        project.register_variant("second", "loud", "steered:loud")
        await bench.register_project(project)
        yield bench


async def test_an_execution_is_changed_forked_and_swapped(
    bench: AsyncTestBench, stack: Stack
) -> None:
    held = await bench.run("steered", {"x": 1}, breakpoints=["second"], timeout=60)
    assert held.next_nodes == ["second"]
    outcome = await bench.execute_node(held.id, "second", {"x": 5})
    assert outcome.update == {"done": ["second"], "x": 6}
    changed = await bench.update_state(held.id, {"done": ["mine"]}, replace=True)
    assert changed.state["done"] == ["mine"]
    with pytest.raises(errors.InvalidState) as e:
        await bench.update_state(held.id, {"x": "?"})
    assert e.value.details["field"] == "state.x"
    fork = await bench.fork(held.id, state={"x": 9}, run=True, timeout=60)
    assert (fork.status, fork.state["done"], fork.state["x"]) == (
        "COMPLETED",
        ["mine", "second", "third"],
        10,
    )
    await bench.swap(held.id, "second", "loud")
    done = await bench.resume(held.id, timeout=60)
    assert (done.status, done.state["done"]) == ("COMPLETED", ["mine", "SECOND", "third"])
    back = await bench.rollback_to_node(held.id, "first")
    assert (back.status, back.state["done"]) == ("PAUSED", ["first"])
    assert await shown(held.id, stack) == [0, 1]


async def shown(id: str, stack: Stack) -> list[int]:
    """The branches that `wtb exec show` draws."""
    script = str(Path(sys.executable).with_name("wtb"))
    command = [script, "exec", "show", id, "--json", "--url", stack.url]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True, timeout=60
    )
    return [branch["number"] for branch in json.loads(done.stdout)["tree"]["branches"]]
