"""Events, errors and lost answers, as the benches see them; sync and async alike."""

import httpx
import pytest

from tests.unit.sdk_server import EXECUTION, NOW, STATE, URL, Both, Cut, Reply, Server, failed
from wtb_ray import errors
from wtb_ray.events import EventRow


def row(number: int) -> EventRow:
    return EventRow(
        cursor=f"{number}.1",
        at=NOW,
        type="batch.started",
        project="rag",
        execution_id=None,
        batch_id="b1",
        actor="http",
        payload={"text": "line\u2028separator \x85 é"},
    )


def sse(*numbers: int) -> bytes:
    return b"retry: 1000\n\n" + b"".join(
        f"id: {n}.1\nevent: batch.started\ndata: {row(n).model_dump_json()}\n\n".encode()
        for n in numbers
    )


async def test_events_go_on_behind_a_lost_connection(server: Server, bench: Both) -> None:
    server.on(
        "GET /events",
        httpx.Response(200, stream=Cut(sse(1, 2) + b": idle\nid: 5.1\n\nid: 6.1\ndata: {")),
        httpx.ConnectError("refused"),
        httpx.Response(503, text="replica is gone"),
        httpx.Response(200, content=sse(7)),
    )
    rows = await bench.events(batch="b1", types=["batch.started"], follow=False)
    assert rows == [row(1), row(2), row(7)]
    assert [r.url.params.get("after") for r in server.requests] == [None, "5.1", "5.1", "5.1"]
    assert dict(server.requests[0].url.params) == {
        "batch": "b1",
        "type": "batch.started",
        "follow": "false",
    }


async def test_a_cursor_that_is_none_is_the_servers_error(server: Server, bench: Both) -> None:
    server.on("GET /events", failed(422, "invalid_request", "no cursor", field="after"))
    with pytest.raises(errors.InvalidRequest, match="no cursor"):
        await bench.events(after="x")


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (failed(404, "unknown_execution", "no e9"), errors.UnknownExecution),
        (failed(409, "invalid_transition"), errors.InvalidTransition),
        (failed(422, "a_code_of_tomorrow"), errors.InvalidRequest),
        (failed(500, "object_corrupt"), errors.ObjectCorrupt),
        (httpx.Response(404, text="<html>nginx"), errors.NotFound),
        (httpx.Response(500, text="boom"), errors.WTBError),
    ],
)
async def test_errors_come_back_as_their_class(
    server: Server, bench: Both, response: httpx.Response, kind: type[errors.WTBError]
) -> None:
    server.on("GET /executions/e9/state", response)
    with pytest.raises(errors.WTBError) as e:
        await bench.get_state("e9")
    assert type(e.value) is kind


async def test_errors_keep_message_and_details(server: Server, bench: Both) -> None:
    server.on("GET /executions/e9/state", failed(404, "unknown_execution", "no e9", field="id"))
    with pytest.raises(errors.UnknownExecution, match="no e9") as e:
        await bench.get_state("e9")
    assert e.value.details == {"field": "id"}


async def test_an_answer_of_another_shape_is_named(server: Server, bench: Both) -> None:
    server.on("GET /executions/e1/state", {"hello": 1})
    with pytest.raises(errors.WTBError, match=r"state gave an unexpected answer"):
        await bench.get_state("e1")


async def test_a_bench_that_is_not_there_is_unavailable_with_the_cure(
    server: Server, bench: Both
) -> None:
    server.on("GET /workflows", httpx.ConnectError("refused"))
    with pytest.raises(errors.Unavailable, match="wtb up") as e:
        await bench.list_projects()
    assert e.value.details == {"url": URL, "reason": "ConnectError"}


@pytest.mark.parametrize(
    "trouble",
    [httpx.ConnectError("no"), httpx.ReadError("cut"), httpx.Response(503), httpx.Response(429)],
)
async def test_reads_are_tried_again(server: Server, bench: Both, trouble: Reply) -> None:
    server.on("GET /executions/e1/state", trouble, STATE)
    assert (await bench.get_state("e1")).step == 5


async def test_a_command_whose_answer_was_lost_is_sent_again_under_its_key(
    server: Server, bench: Both
) -> None:
    server.on(
        "POST /executions/e1/stop",
        httpx.ReadError("cut"),
        failed(409, "conflict", "still under way"),
        {**EXECUTION, "status": "CANCELLED"},
    )
    server.on("GET /executions/e1/state", {**STATE, "status": "CANCELLED"})
    assert (await bench.stop("e1", "enough")).status == "CANCELLED"
    keys = {r.headers["idempotency-key"] for r in server.requests[:3]}
    assert len(keys) == 1
    assert server.body() == {"reason": "enough", "kill": False, "cell": None}


async def test_a_command_that_was_refused_is_not_sent_again(server: Server, bench: Both) -> None:
    server.on("POST /executions/e1/stop", failed(409, "conflict"))
    with pytest.raises(errors.Conflict):
        await bench.stop("e1")
    server.on("POST /executions/e1/stop", failed(503, "database_unavailable"))
    with pytest.raises(errors.DatabaseUnavailable):
        await bench.stop("e1")
    assert len(server.requests) == 2
