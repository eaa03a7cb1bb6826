"""`wtb exec` with runners behind the service: what people type, and what they see."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest_asyncio
from typer.testing import CliRunner, Result

from tests.integration.steering_bench import ASKING, SteeringBench, address, bench
from wtb_ray.cli import app

__all__ = ["address", "bench"]

Wtb = Callable[..., Coroutine[Any, Any, Result]]


@pytest_asyncio.fixture
async def wtb(bench: SteeringBench, address: str) -> Wtb:
    async def invoke(*words: str) -> Result:
        environment = {"WTB_URL": address, "COLUMNS": "180"}
        arguments = ["exec", *words]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)

    return invoke


async def read(wtb: Wtb, *words: str) -> Any:
    result = await wtb(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


async def test_an_execution_from_pause_to_fork(bench: SteeringBench, wtb: Wtb) -> None:
    id = await bench.paused()
    assert id in (await wtb("list", "--project", "line", "--status", "paused")).stdout
    assert (await read(wtb, "break", id))["breakpoints"] == ["before:second"]
    assert (await wtb("break", id, "third", "after:first")).stdout.split() == [
        "before:third",
        "after:first",
    ]
    assert "no breakpoints" in (await wtb("break", id, "--clear")).stdout
    nodes = (await wtb("node", id)).stdout
    assert nodes.splitlines()[2].split()[:3] == ["first", "completed", "1"]
    tried = await wtb("node", id, "second", "--state", '{"x": 41}')
    assert '"x":42' in tried.stdout
    failed = await wtb("node", id, "third", "--state", '{"fails": true}')
    assert (failed.exit_code, "no luck" in failed.stdout) == (3, True)
    assert '["first"]' in (await wtb("state", id)).stdout
    changed = await wtb("state", id, "--set", '{"done": ["me"]}', "--replace")
    assert '["me"]' in changed.stdout
    diff = (await wtb("diff", id)).stdout
    assert ["~", "done", '["first"]', '["me"]'] in [line.split() for line in diff.splitlines()]
    stepped = await wtb("step", id)
    assert "PAUSED (requested)" in stepped.stdout
    done = await wtb("resume", id, "--state", '{"done": ["more"]}')
    assert '["me","second","more","third"]' in done.stdout

    back = await wtb("rollback", id, "--node", "first")
    assert "PAUSED (rollback)" in back.stdout
    swapped = await wtb("swap", id, "second=loud")
    assert "second=loud" in swapped.stdout
    assert '["first","SECOND","third"]' in (await wtb("resume", id)).stdout
    place = (await read(wtb, "show", id))["tree"]["branches"][0]["steps"][2]["id"]
    again = await wtb("fork", id, place, "--count", "2", "--variant", "second=marked")
    assert (again.exit_code, again.stdout.count("PAUSED")) == (0, 2)

    drawn = (await wtb("show", id)).stdout.splitlines()
    text = "\n".join(drawn)
    assert "branch 0 (start)" in text
    assert text.count("⑂ fork e") == 2
    [here] = [line for line in drawn if "◀ here" in line]
    assert "third" in here
    assert "state changed" in text
    branch = next(i for i, line in enumerate(drawn) if "branch 1 (rollback)" in line)
    below = next(i for i, line in enumerate(drawn) if place in line)
    assert below < branch, "the branch is drawn below the step that it began with"


async def test_a_question_is_answered(bench: SteeringBench, wtb: Wtb) -> None:
    await bench.register(ASKING)
    id = await bench.start(ASKING)
    await bench.rest(id)
    shown = (await wtb("show", id)).stdout
    assert "go on?" in shown
    [question] = await read(wtb, "answer", id)
    wrong = await wtb("answer", id, "--value", '{"approved": "maybe"}')
    assert (wrong.exit_code, "(invalid_answer)" in wrong.stderr) == (1, True)
    done = await wtb("answer", id, f'{question["id"]}={{"approved": true}}')
    assert "COMPLETED" in done.stdout
    assert (await wtb("answer", id, "--value", "1")).exit_code == 2
    assert "no questions" in (await wtb("answer", id)).stdout


async def test_a_failure_is_retried_and_stopped(bench: SteeringBench, wtb: Wtb) -> None:
    id = await bench.start(initial_state={"fails": True})
    await bench.rest(id)
    retried = await wtb("retry", id)
    assert (retried.exit_code, "no luck" in retried.stdout) == (3, True)
    held = await bench.paused()
    stopped = await wtb("stop", held, "--reason", "enough")
    assert (stopped.exit_code, "CANCELLED (enough)" in stopped.stdout) == (0, True)


async def test_what_is_wrong_is_said_on_one_line(bench: SteeringBench, wtb: Wtb) -> None:
    id = await bench.paused()
    for words, code, reason in [
        (["show", "e0"], 1, "(unknown_execution)"),
        (["pause", id], 1, "(invalid_transition)"),
        (["rollback", id], 2, "give a checkpoint"),
        (["rollback", id, "zzz"], 1, "0 checkpoints"),
        (["rollback", id, "1"], 1, "ambiguous"),
        (["rollback", id, "--node", "nope"], 1, "(unknown_node)"),
        (["fork", id, "--variant", "_workflow=short"], 1, "(incompatible)"),
        (["swap", id], 2, "give node=variant"),
        (["swap", id, "second"], 2, "node=variant"),
        (["node", id, "--state", "{}"], 2, "--state"),
        (["break", id, "a", "--clear"], 2, "--clear"),
        (["resume", id, "--state", "[]"], 2, "a JSON object is needed"),
        (["state", id, "--set", '{"nope": 1}'], 1, "state.nope"),
    ]:
        result = await wtb(*words)
        assert (result.exit_code, reason in result.stderr) == (code, True), (words, result.stderr)
