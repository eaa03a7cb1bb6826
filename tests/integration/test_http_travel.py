"""Rollback, fork, swap and the history that they move in, over HTTP."""

import asyncio
from typing import Any

from tests import steered
from tests.integration.steering_bench import SPEC, SteeringBench, bench

__all__ = ["bench"]


async def checkpoints(bench: SteeringBench, id: str) -> list[str]:
    """Oldest first: those of step -1, 0, 1, ..."""
    page = await bench.http.get(f"/executions/{id}/checkpoints")
    return [item["id"] for item in reversed(page["items"])]


async def completed(bench: SteeringBench, **request: Any) -> str:
    id = await bench.start(**request)
    assert (await bench.rest(id))["status"] == "COMPLETED"
    return id


async def test_back_to_a_node_and_forward_again(bench: SteeringBench) -> None:
    id = await completed(bench)
    end = (await bench.http.get(f"/executions/{id}"))["head"]
    back = await bench.post(f"/executions/{id}/rollback", {"node": "second", "where": "entry"})
    assert (back["status"], back["reason"], back["head_step"]) == ("PAUSED", "rollback", 1)
    assert await bench.done(id) == ["first"]
    nodes = {n["name"]: n for n in await bench.http.get(f"/executions/{id}/nodes")}
    assert [(n["status"], n["runs"]) for n in nodes.values()] == [
        ("completed", 1),
        ("pending", 0),
        ("pending", 0),
    ]
    assert nodes["second"]["entry"] == nodes["first"]["exit"] == back["head"]

    forward = await bench.post(f"/executions/{id}/rollback", {"checkpoint_id": end})
    assert forward["head"] == end
    assert await bench.done(id) == ["first", "second", "third"]
    tree = await bench.http.get(f"/executions/{id}/branches")
    assert [(b["number"], b["reason"], b["current"]) for b in tree["branches"]] == [
        (0, "start", False),
        (1, "rollback", False),
        (2, "rollback", True),
    ]
    assert [b["parent_checkpoint"] for b in tree["branches"]][1:] == [back["head"], end]
    assert (await bench.types(id)).count("execution.rolled_back") == 2


async def test_reset_goes_back_to_the_input(bench: SteeringBench) -> None:
    id = await completed(bench)
    back = await bench.post(f"/executions/{id}/reset", {})
    assert (back["status"], back["head_step"]) == ("PAUSED", 0)
    assert await bench.done(id) == []
    await bench.post(f"/executions/{id}/resume", {})
    assert (await bench.rest(id))["status"] == "COMPLETED"
    assert await bench.done(id) == ["first", "second", "third"]


async def test_kill_waits_for_no_node(bench: SteeringBench) -> None:
    steered.GATES["kill"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "kill"})
    await bench.at(id, "second")
    killed = await bench.post(f"/executions/{id}/stop", {"kill": True, "reason": "enough"}, 202)
    assert (killed["status"], killed["reason"]) == ("CANCELLED", "enough")
    steered.GATES["kill"].set()
    error = await bench.refused("POST", f"/executions/{id}/stop", {"kill": True}, 409)
    assert error["details"]["state"] == "CANCELLED"


async def test_what_runs_is_rolled_back_when_asked_to(bench: SteeringBench) -> None:
    gate = steered.GATES["back"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "back"})
    await bench.at(id, "second")
    path = f"/executions/{id}/rollback"
    error = await bench.refused("POST", path, {"node": "first"}, 409)
    assert (error["code"], error["details"]["state"]) == ("invalid_transition", "RUNNING")
    bench.commands._operating.wait_s = 0.2
    error = await bench.refused("POST", path, {"node": "first", "pause": True}, 409)
    assert error["details"]["reason"] == "did not pause in time"
    execution = await bench.http.get(f"/executions/{id}")
    assert (execution["status"], execution["wanted"]) == ("RUNNING", "run"), "it goes on"

    bench.commands._operating.wait_s = 10
    asked = asyncio.create_task(bench.post(path, {"node": "first", "pause": True}))
    while (await bench.http.get(f"/executions/{id}"))["wanted"] != "pause":
        await asyncio.sleep(0.01)
    gate.set()
    assert ((await asked)["status"], await bench.done(id)) == ("PAUSED", ["first"])


async def test_a_fork_goes_on_with_another_variant(bench: SteeringBench) -> None:
    id = await completed(bench)
    cp = (await checkpoints(bench, id))[2]
    made = await bench.post(
        f"/executions/{id}/fork",
        {"checkpoint_id": cp, "variant_config": {"second": "loud"}, "run": True},
        201,
    )
    [fork] = made["executions"]
    assert (fork["forked_from"], fork["forked_at"], fork["binding"]) == (id, cp, {"second": "loud"})
    await bench.rest(fork["id"])
    assert await bench.done(fork["id"]) == ["first", "SECOND", "third"]
    assert await bench.done(id) == ["first", "second", "third"]
    tree = await bench.http.get(f"/executions/{id}/branches")
    assert [(f["id"], f["checkpoint_id"], f["step"]) for f in tree["forks"]] == [
        (fork["id"], cp, 1)
    ]
    diff = await bench.http.get(f"/executions/{id}/diff", execution=fork["id"])
    assert diff["state"]["done"]["after"] == ["first", "SECOND", "third"]

    back = await bench.post(f"/executions/{fork['id']}/rollback", {"node": "first"})
    assert back["head"] == cp, "before its own beginning"
    again = await bench.post(
        f"/executions/{fork['id']}/fork",
        {"variant_config": {"second": "default"}, "run": True, "breakpoints": ["third"]},
        201,
    )
    grandchild = again["executions"][0]["id"]
    assert (await bench.rest(grandchild))["reason"] == "breakpoint"
    assert await bench.done(grandchild) == ["first", "second"]


async def test_forks_with_another_state(bench: SteeringBench) -> None:
    id = await bench.paused()
    made = await bench.post(
        f"/executions/{id}/fork",
        {"state": {"x": 10, "done": ["new"]}, "replace": True, "count": 3, "run": True},
        201,
    )
    ids = [fork["id"] for fork in made["executions"]]
    assert len(set(ids)) == 3
    for fork in ids:
        await bench.rest(fork)
        state = (await bench.http.get(f"/executions/{fork}/state"))["values"]
        assert (state["x"], state["done"]) == (11, ["new", "second", "third"])
    assert await bench.done(id) == ["first"]


async def test_the_same_key_makes_the_same_forks(bench: SteeringBench) -> None:
    id = await bench.paused()
    path, body = f"/api/v1/executions/{id}/fork", {"count": 2, "state": {"x": 5}}
    key = {"Idempotency-Key": "k1"}
    first = await bench.http.client.post(path, json=body, headers=key)
    await bench.store.idempotency.forget("k1")  # as if the process had died before it kept it
    again = await bench.http.client.post(path, json=body, headers=key)
    assert first.status_code == again.status_code == 201
    ids = [[fork["id"] for fork in r.json()["executions"]] for r in (first, again)]
    assert ids[0] == ids[1]
    assert len((await bench.http.get("/executions"))["items"]) == 3
    assert (await bench.types(ids[0][0])).count("state.changed") == 1


async def test_a_fork_without_a_checkpoint_is_refused(bench: SteeringBench) -> None:
    made = await bench.store.executions.create(
        await bench.store.projects.get("line"), {}, {}, recursion_limit=9, actor="me"
    )
    await bench.store.control.pause(made.id, actor="me")
    error = await bench.refused("POST", f"/executions/{made.id}/fork", {}, 409)
    assert (error["code"], error["details"]["state"]) == ("invalid_transition", "PAUSED")


async def test_a_paused_execution_is_swapped(bench: SteeringBench) -> None:
    id = await bench.paused()
    swapped = await bench.post(f"/executions/{id}/swap", {"node": "second", "variant": "loud"})
    assert (swapped["status"], swapped["binding"]) == ("PAUSED", {"second": "loud"})
    await bench.post(f"/executions/{id}/resume")
    await bench.rest(id)
    assert await bench.done(id) == ["first", "SECOND", "third"]
    [event] = await swaps(bench, id)
    version = await bench.store.projects.get("line")
    node = next(n for n in version.graph.nodes if n.name == "second")
    assert event["node"] == "second"
    assert (event["before"], event["after"]) == (node.fingerprint, node.variants["loud"])
    assert event["before"] != event["after"]


async def swaps(bench: SteeringBench, id: str) -> list[Any]:
    page = await bench.http.get("/audit/events", execution=id, type="node.swapped")
    return [event["payload"] for event in page["items"]]


async def test_a_running_execution_is_swapped_and_goes_on(bench: SteeringBench) -> None:
    gate = steered.GATES["swap"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "swap"})
    await bench.at(id, "second")
    newer = await bench.register(SPEC.model_copy(update={"description": "newer"}))
    body = {"version": newer.version, "variant_config": {"second": "marked"}}
    asked = asyncio.create_task(bench.post(f"/executions/{id}/swap", body))
    while (await bench.http.get(f"/executions/{id}"))["wanted"] != "pause":
        await asyncio.sleep(0.01)
    gate.set()
    swapped = await asked
    assert swapped["version"] == newer.version
    done = await bench.rest(id, "COMPLETED")
    assert (done["version"], done["binding"]) == (newer.version, {"second": "marked"})
    assert await bench.done(id) == ["first", "second", "third"]


async def test_graphs_that_do_not_fit_are_refused_by_name(bench: SteeringBench) -> None:
    id = await bench.paused()
    other = await bench.register(SPEC.model_copy(update={"name": "other"}))
    before = await bench.everything(id)
    for command, body, code, named in [
        ("swap", {"variant_config": {"_workflow": "short"}}, "incompatible", "second"),
        ("swap", {"variant_config": {"_workflow": "narrow"}}, "incompatible", "x"),
        ("swap", {"node": "second", "variant": "nope"}, "unknown_variant", "nope"),
        ("swap", {"node": "nope", "variant": "loud"}, "unknown_node", "nope"),
        ("swap", {"node": "second"}, "invalid_request", "together"),
        ("swap", {}, "invalid_request", "nothing to swap"),
        ("fork", {"variant_config": {"_workflow": "short"}}, "incompatible", "second"),
        ("fork", {"variant_config": {"_workflow": "narrow"}}, "incompatible", "x"),
        ("fork", {"variant_config": {"second": "nope"}}, "unknown_variant", "nope"),
        ("fork", {"state": {"nope": 1}}, "invalid_state", "nope"),
        ("fork", {"state": {"x": "?"}, "count": 5}, "invalid_state", "'x'"),
        ("fork", {"state": {}, "as_node": "nope"}, "invalid_state", "nope"),
        ("fork", {"breakpoints": ["nope"]}, "unknown_node", "nope"),
        ("fork", {"count": 101}, "invalid_request", "count"),
        ("fork", {"node": "third"}, "unknown_node", "third"),
        ("fork", {"node": "first", "checkpoint_id": "c"}, "invalid_request", "not both"),
        ("rollback", {"node": "third"}, "unknown_node", "third"),
        ("rollback", {}, "invalid_request", "checkpoint_id or a node"),
    ]:
        error = await bench.refused("POST", f"/executions/{id}/{command}", body, 422)
        assert error["code"] == code, error
        assert named in error["message"]
    for command, body in [
        ("rollback", {"checkpoint_id": "c0"}),
        ("fork", {"checkpoint_id": "c0"}),
        ("fork", {"version": "0" * 64}),
        ("swap", {"version": "0" * 64}),
        ("swap", {"version": other.version}),
    ]:
        error = await bench.refused("POST", f"/executions/{id}/{command}", body, 404)
        assert error["code"] in ("unknown_checkpoint", "unknown_version")
    assert await bench.everything(id) == before


async def test_a_swap_that_does_not_fit_leaves_what_runs_alone(bench: SteeringBench) -> None:
    gate = steered.GATES["alone"] = asyncio.Event()
    id = await bench.start(initial_state={"gate": "alone"})
    await bench.at(id, "second")
    body = {"variant_config": {"_workflow": "short"}}
    error = await bench.refused("POST", f"/executions/{id}/swap", body, 422)
    assert error["details"]["nodes"] == ["second"]
    assert (await bench.http.get(f"/executions/{id}"))["wanted"] == "run"
    gate.set()
    assert (await bench.rest(id))["status"] == "COMPLETED"


async def test_many_are_rolled_back_and_forked_at_once(bench: SteeringBench) -> None:
    ids = [await completed(bench) for _ in range(3)]
    items = [
        {"command": "rollback", "execution_id": ids[0], "node": "first"},
        {"command": "fork", "execution_id": ids[1], "node": "second", "count": 2},
        {"command": "rollback", "execution_id": ids[2], "checkpoint_id": "c0"},
        {"command": "rollback", "execution_id": "e0", "node": "first"},
        {"command": "fork", "execution_id": ids[0]},
    ]
    path, key = "/api/v1/executions/batch", {"Idempotency-Key": "many"}
    response = await bench.http.client.post(path, json={"items": items}, headers=key)
    assert response.status_code == 200, response.text
    outcomes = response.json()["items"]
    assert [(o["ok"], len(o["executions"])) for o in outcomes] == [
        (True, 1),
        (True, 2),
        (False, 0),
        (False, 0),
        (True, 1),
    ]
    assert [o["error"]["code"] for o in outcomes if not o["ok"]] == [
        "unknown_checkpoint",
        "unknown_execution",
    ]
    assert outcomes[4]["executions"][0]["head_step"] == 1, "items of one execution are in order"
    assert await bench.done(ids[0]) == ["first"]
    assert await bench.done(ids[2]) == ["first", "second", "third"]
    await bench.store.idempotency.forget("many")
    again = await bench.http.client.post(path, json={"items": items}, headers=key)
    made = [[e["id"] for e in o["executions"]] for o in again.json()["items"]]
    assert made == [[e["id"] for e in o["executions"]] for o in outcomes]
    error = await bench.refused("POST", "/executions/batch", {"items": []}, 422)
    assert error["details"]["field"] == "items"


async def test_states_of_any_two_checkpoints_are_compared(bench: SteeringBench) -> None:
    id = await completed(bench)
    cps = await checkpoints(bench, id)
    diff = await bench.http.get(f"/executions/{id}/diff", **{"from": cps[2], "to": cps[4]})
    assert (diff["from_checkpoint"], diff["to_checkpoint"]) == (cps[2], cps[4])
    assert diff["state"] == {
        "x": {"change": "changed", "before": 1, "after": 2},
        "done": {
            "change": "changed",
            "before": ["first"],
            "after": ["first", "second", "third"],
        },
    }
    newest = await bench.http.get(f"/executions/{id}/diff")
    assert (newest["from_checkpoint"], list(newest["state"])) == (cps[3], ["done"])
    first = await bench.http.get(f"/executions/{id}/diff", to=cps[0])
    assert first["from_checkpoint"] is None
    await bench.post(f"/executions/{id}/rollback", {"checkpoint_id": cps[2]})
    error = await bench.refused("GET", f"/executions/{id}/diff?to={cps[4]}", None, 422)
    assert error["details"]["field"] == "from"
    error = await bench.refused("GET", f"/executions/{id}/diff?to=nope", None, 404)
    assert error["code"] == "unknown_checkpoint"
    abandoned = await bench.http.get(
        f"/executions/{id}/diff", **{"from": cps[2], "to": cps[4], "state": "true"}
    )
    assert abandoned["state"] == diff["state"]


async def test_variants_are_added_deactivated_and_removed(bench: SteeringBench) -> None:
    path = "/workflows/line/nodes/second/variants"
    added = await bench.post(path, {"name": "soft", "params": {"mark": "~"}}, 201)
    assert added["spec"]["variants"]["second"]["soft"]["params"] == {"mark": "~"}
    error = await bench.refused("POST", path, {"name": "soft", "params": {}}, 409)
    assert error["code"] == "already_exists"
    held = await bench.paused(variant_config={"second": "soft"})

    response = await bench.http.client.patch(f"/api/v1{path}/soft", json={"active": False})
    assert response.json()["version"] != added["version"]
    body = {"variant_config": {"second": "soft"}}
    error = await bench.refused("POST", "/workflows/line/execute", body, 422)
    assert (error["code"], error["details"]["reason"]) == ("unknown_variant", "deactivated")
    await bench.post(f"/executions/{held}/resume")
    await bench.rest(held)
    assert await bench.done(held) == ["first", "second~", "third"], "what has it goes on"
    response = await bench.http.client.patch(f"/api/v1{path}/soft", json={"active": True})
    assert response.json()["version"] == added["version"]

    response = await bench.http.client.delete(f"/api/v1{path}/soft")
    assert "soft" not in response.json()["spec"]["variants"]["second"]
    for method, where in [("DELETE", f"{path}/soft"), ("PATCH", f"{path}/soft")]:
        await bench.refused(method, where, {"active": True}, 404)
    error = await bench.refused("PUT", "/workflows/line", {"name": "l", "entry": "a:b"}, 422)
    assert error["details"]["field"] == "name"
