"""Executions are steered over gRPC alone, on the real stack, as a client sees it."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests import steered
from tests.stack import Stack
from wtb_ray.rpc import batch_pb2 as batches
from wtb_ray.rpc import execution_pb2 as pb
from wtb_ray.rpc import session_pb2
from wtb_ray.rpc.batch_pb2_grpc import BatchTestStub
from wtb_ray.rpc.execution_pb2_grpc import ExecutionControlStub
from wtb_ray.rpc.session_pb2_grpc import InteractiveSessionStub
from wtb_ray.sdk import AsyncTestBench, WorkflowProject

NAME = "by-grpc"
RESTS = ["execution.paused", "execution.completed", "execution.failed"]
PAUSED, COMPLETED = pb.EXECUTION_STATUS_PAUSED, pb.EXECUTION_STATUS_COMPLETED


@pytest_asyncio.fixture
async def channel(stack: Stack, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    shutil.copy(steered.__file__, tmp_path / "steered.py")
    async with AsyncTestBench(stack.url) as bench:
        project = WorkflowProject(NAME, "steered:line", root=tmp_path)
        project.register_variant("second", "loud", "steered:loud")
        project.register_workflow_variant("asking", "steered:asking")
        await bench.register_project(project)
    async with grpc.aio.insecure_channel(stack.grpc) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return ExecutionControlStub(channel)


async def rests(stub: Any, id: str) -> Any:
    """The execution once it rests, for the first time or for the last."""
    events = stub.StreamExecutionEvents(
        pb.StreamExecutionEventsRequest(execution_id=id, types=RESTS)
    )
    async for _ in events:
        found = await stub.GetExecution(pb.GetExecutionRequest(execution_id=id))
        if found.status in (PAUSED, COMPLETED, pb.EXECUTION_STATUS_FAILED):
            events.cancel()
            return found
    raise AssertionError("the stream ended")


async def held(stub: Any, **fields: Any) -> str:
    """The id of an execution that stands before `second`, or where it asks."""
    request = pb.StartExecutionRequest(project=NAME, initial_state='{"x": 1}', **fields)
    if not request.variant_config:
        request.breakpoints.append("second")
    made = await stub.StartExecution(request)
    assert (await rests(stub, made.id)).status == PAUSED
    return str(made.id)


async def checkpoints(stub: Any, id: str) -> list[tuple[int, list[str]]]:
    """Number and nodes of each step, newest first."""
    found = await stub.ListCheckpoints(pb.ListCheckpointsRequest(execution_id=id))
    return [(c.step, [n.name for n in c.nodes]) for c in found.checkpoints]


class Talk:
    """A session as its client has it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = InteractiveSessionStub(channel).Interact(metadata=[("x-actor", "ada")])
        self._said = 0

    async def say(self, **command: Any) -> Any:
        """What is answered to a command."""
        self._said += 1
        about = f"r{self._said}"
        await self._call.write(session_pb2.InteractRequest(request_id=about, **command))
        return await self.told(about)

    async def told(self, about: str | None = None) -> Any:
        """What is told next; about the newest command, unless another one is given."""
        answer = await self._call.read()
        assert answer.request_id == (about or f"r{self._said}")
        return getattr(answer, answer.WhichOneof("outcome"))

    async def state(self, id: str) -> Any:
        shown = await self.say(inspect=session_pb2.InspectRequest(execution_id=id, state=True))
        return json.loads(shown.state)

    async def end(self) -> None:
        """Ends the client's side; nothing more is told, and all is well."""
        await self._call.done_writing()
        assert not await self._call.read()
        assert await self._call.code() == grpc.StatusCode.OK


class TestInteract:
    async def test_a_run_is_stepped_modified_and_rolled_back(
        self, channel: grpc.aio.Channel, stub: Any
    ) -> None:
        id = await held(stub)
        talk = Talk(channel)
        shown = await talk.say(inspect=session_pb2.InspectRequest(execution_id=id, state=True))
        assert (shown.execution.id, shown.execution.status) == (id, PAUSED)
        assert (shown.execution.reason, shown.step) == ("breakpoint", 1)
        assert (shown.checkpoint_id, list(shown.next_nodes)) == (shown.execution.head, ["second"])
        assert json.loads(shown.state) == {"done": ["first"], "x": 1}

        sent = await talk.say(step=pb.StepExecutionRequest(execution_id=id))
        assert sent.execution.status == pb.EXECUTION_STATUS_PENDING
        assert not sent.HasField("state")
        rested = await talk.told()
        assert (rested.execution.status, list(rested.next_nodes)) == (PAUSED, ["third"])
        assert await talk.state(id) == {"done": ["first", "second"], "x": 2}

        modify = session_pb2.ModifyRequest(execution_id=id, values='{"done": ["me"]}', replace=True)
        changed = await talk.say(modify=modify)
        assert (changed.execution.status, list(changed.next_nodes)) == (PAUSED, ["third"])
        assert await talk.state(id) == {"done": ["me"], "x": 2}

        rollback = pb.RollbackExecutionRequest(execution_id=id, node="first")
        back = await talk.say(rollback=rollback)
        assert (back.execution.status, back.step, list(back.next_nodes)) == (PAUSED, 1, ["second"])
        assert await talk.state(id) == {"done": ["first"], "x": 1}
        await talk.end()

    async def test_a_run_is_forked_held_and_completed(
        self, channel: grpc.aio.Channel, stub: Any
    ) -> None:
        id = await held(stub)
        talk = Talk(channel)
        fork = pb.ForkExecutionRequest(execution_id=id, state='{"x": 9}', run=True)
        (made,) = (await talk.say(fork=fork)).executions
        assert made.forked_from == id
        ended = await talk.told()
        assert (ended.execution.id, ended.execution.status) == (made.id, COMPLETED)
        assert await talk.state(made.id) == {"done": ["first", "second", "third"], "x": 10}

        hold = session_pb2.BreakpointRequest(execution_id=id, breakpoints=["third"])
        assert list((await talk.say(breakpoint=hold)).execution.breakpoints) == ["before:third"]
        go_on = pb.ResumeExecutionRequest(execution_id=id)
        await talk.say(continue_run=go_on)
        rested = await talk.told()
        assert (rested.execution.reason, list(rested.next_nodes)) == ("breakpoint", ["third"])
        await talk.say(continue_run=go_on)
        ended = await talk.told()
        assert (ended.execution.status, list(ended.next_nodes)) == (COMPLETED, [])
        assert await talk.state(id) == {"done": ["first", "second", "third"], "x": 2}
        await talk.end()

    async def test_a_question_is_answered(self, channel: grpc.aio.Channel, stub: Any) -> None:
        id = await held(stub, variant_config={"_workflow": "asking"})
        talk = Talk(channel)
        shown = await talk.say(inspect=session_pb2.InspectRequest(execution_id=id))
        assert shown.execution.reason == "interrupt"
        (question,) = shown.questions
        assert json.loads(question.value)["question"] == "go on?"
        assert (json.loads(question.answer_schema), question.answered) == (steered.SCHEMA, False)

        unanswered = await talk.say(continue_run=pb.ResumeExecutionRequest(execution_id=id))
        assert unanswered.code == "conflict"
        assert json.loads(unanswered.details)["asked"] == [question.id]
        answers = {question.id: '{"approved": "yes"}'}
        wrong = await talk.say(
            continue_run=pb.ResumeExecutionRequest(execution_id=id, answers=answers)
        )
        assert wrong.code == "invalid_answer"
        answers = {question.id: '{"approved": true}'}
        await talk.say(continue_run=pb.ResumeExecutionRequest(execution_id=id, answers=answers))
        assert (await talk.told()).execution.status == COMPLETED
        assert (await talk.state(id))["said"] == {"approved": True}
        await talk.end()

    async def test_what_is_refused_does_not_end_the_stream(
        self, channel: grpc.aio.Channel, stub: Any
    ) -> None:
        id = await held(stub)
        talk = Talk(channel)
        refusals: list[tuple[str, dict[str, Any]]] = [
            ("invalid_request", {}),
            ("unknown_execution", {"inspect": {"execution_id": "e0"}}),
            ("unknown_checkpoint", {"inspect": {"execution_id": id, "checkpoint_id": "c0"}}),
            ("unknown_execution", {"step": {"execution_id": "e0"}}),
            ("invalid_request", {"modify": {"execution_id": id, "values": "{"}}),
            ("invalid_state", {"modify": {"execution_id": id, "values": '{"nope": 1}'}}),
            ("invalid_request", {"rollback": {"execution_id": id}}),
            ("unknown_variant", {"fork": {"execution_id": id, "variant_config": {"second": "?"}}}),
        ]
        for code, command in refusals:
            refused = await talk.say(**command)
            assert (refused.code, bool(refused.message)) == (code, True)
        assert await talk.state(id) == {"done": ["first"], "x": 1}
        await talk.end()

    async def test_a_stream_ends_once_all_is_told(
        self, channel: grpc.aio.Channel, stub: Any
    ) -> None:
        """A client that has said everything hears how it came out; the same key, the same answer."""
        id = await held(stub)
        step = pb.StepExecutionRequest(execution_id=id, idempotency_key=f"step {id}")

        async def commands() -> AsyncIterator[Any]:
            for about in ("one", "again"):
                yield session_pb2.InteractRequest(request_id=about, step=step)

        told = [
            (answer.request_id, answer.WhichOneof("outcome"), answer)
            async for answer in InteractiveSessionStub(channel).Interact(commands())
        ]
        assert sorted(t[:2] for t in told) == [
            ("again", "position"),
            ("again", "rested"),
            ("one", "position"),
            ("one", "rested"),
        ]
        sent = [answer.position.execution for *_, kind, answer in told if kind == "position"]
        assert sent[0] == sent[1] == await stub.StepExecution(step)
        assert await checkpoints(stub, id) == [(2, ["second"]), (1, ["first"]), (0, []), (-1, [])]


class TestCommands:
    async def test_an_execution_is_steered_call_by_call(self, stub: Any) -> None:
        id = await held(stub)
        await stub.StepExecution(pb.StepExecutionRequest(execution_id=id))
        assert (await rests(stub, id)).head_step == 2
        newest = await stub.ListCheckpoints(pb.ListCheckpointsRequest(execution_id=id, limit=2))
        assert [c.step for c in newest.checkpoints] == [2, 1]
        rest = await stub.ListCheckpoints(
            pb.ListCheckpointsRequest(execution_id=id, after=newest.next)
        )
        assert [c.step for c in rest.checkpoints] == [0, -1]
        assert not rest.HasField("next")
        target = newest.checkpoints[1]
        assert ([n.name for n in target.nodes], list(target.next_nodes)) == (["first"], ["second"])

        back = await stub.RollbackExecution(
            pb.RollbackExecutionRequest(execution_id=id, checkpoint_id=target.id)
        )
        assert (back.status, back.head_step) == (PAUSED, 1)
        request = pb.ForkExecutionRequest(
            execution_id=id,
            variant_config={"second": "loud"},
            count=2,
            run=True,
            idempotency_key=f"fork {id}",
        )
        made = (await stub.ForkExecution(request)).forked
        assert (await stub.ForkExecution(request)).forked == made
        assert len({fork.id for fork in made.executions}) == 2
        for fork in made.executions:
            assert (await rests(stub, fork.id)).status == COMPLETED
            assert dict(fork.binding) == {"second": "loud"}
        sent = await stub.ResumeExecution(
            pb.ResumeExecutionRequest(execution_id=id, state='{"x": 5}', recursion_limit=50)
        )
        assert (sent.execution.id, sent.execution.recursion_limit) == (id, 50)
        assert (await rests(stub, id)).status == COMPLETED
        nodes = [nodes for _, nodes in await checkpoints(stub, id)]
        assert nodes == [["third"], ["second"], [], ["first"], [], []]

    async def test_an_execution_is_stopped(self, stub: Any) -> None:
        id = await held(stub)
        request = pb.StopExecutionRequest(
            execution_id=id, reason="enough", kill=True, idempotency_key=f"stop {id}"
        )
        stopped = await stub.StopExecution(request)
        assert (stopped.status, stopped.reason) == (pb.EXECUTION_STATUS_CANCELLED, "enough")
        assert await stub.StopExecution(request) == stopped
        request.reason = "another"
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await stub.StopExecution(request)
        assert e.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert str(e.value.details()).startswith("idempotency_conflict: ")
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await stub.StepExecution(pb.StepExecutionRequest(execution_id=id))
        assert e.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert str(e.value.details()).startswith("invalid_transition: ")

    @pytest.mark.parametrize(
        ("method", "request_"),
        [
            ("PauseExecution", pb.PauseExecutionRequest()),
            ("ResumeExecution", pb.ResumeExecutionRequest()),
            ("StepExecution", pb.StepExecutionRequest()),
            ("StopExecution", pb.StopExecutionRequest()),
            ("RollbackExecution", pb.RollbackExecutionRequest(node="first")),
            ("ForkExecution", pb.ForkExecutionRequest()),
            ("ListCheckpoints", pb.ListCheckpointsRequest()),
        ],
    )
    async def test_unknown_executions(self, stub: Any, method: str, request_: Any) -> None:
        request_.execution_id = "e0"
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await getattr(stub, method)(request_)
        assert e.value.code() == grpc.StatusCode.NOT_FOUND
        assert str(e.value.details()).startswith("unknown_execution: ")

    async def test_bad_requests(self, stub: Any) -> None:
        id = await held(stub)
        refusals: list[tuple[str, Any, str]] = [
            ("PauseExecution", pb.PauseExecutionRequest(strategy="tepid"), "strategy"),
            ("PauseExecution", pb.PauseExecutionRequest(expected_s=-1), "expected_s"),
            ("ResumeExecution", pb.ResumeExecutionRequest(state="{"), "state"),
            ("ResumeExecution", pb.ResumeExecutionRequest(answers={"i": "{"}), "answers.i"),
            ("ResumeExecution", pb.ResumeExecutionRequest(recursion_limit=0), "recursion_limit"),
            ("RollbackExecution", pb.RollbackExecutionRequest(), ""),
            ("RollbackExecution", pb.RollbackExecutionRequest(node="first", where="?"), "where"),
            ("ForkExecution", pb.ForkExecutionRequest(count=0), "count"),
            ("ForkExecution", pb.ForkExecutionRequest(mode="dirty"), "mode"),
            ("ListCheckpoints", pb.ListCheckpointsRequest(limit=0), "limit"),
            ("ListCheckpoints", pb.ListCheckpointsRequest(after="c0"), "after"),
        ]
        for method, request, code in refusals:
            request.execution_id = id
            with pytest.raises(grpc.aio.AioRpcError) as e:
                await getattr(stub, method)(request)
            assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert str(e.value.details()).startswith(f"invalid_request: {code}")
        assert (await checkpoints(stub, id))[0] == (1, ["first"])


async def test_a_batch_whose_cases_answer_needs_nobody(channel: grpc.aio.Channel) -> None:
    request = batches.RunBatchTestRequest(
        project=NAME,
        variant_matrix=[batches.Binding(nodes={"_workflow": "asking"})],
        test_cases=[
            batches.TestCase(id="yes", input='{"x": 1}', answers='[{"approved": true}]'),
            batches.TestCase(id="odd", input='{"x": 1}', answers='[{"approved": "yes"}]'),
            batches.TestCase(id="none", input='{"x": 1}'),
        ],
    )
    stub = BatchTestStub(channel)
    *_, last = [message async for message in stub.RunBatchTest(request)]
    page = await stub.GetBatchTestResults(
        batches.GetBatchTestResultsRequest(batch_id=last.batch_id)
    )
    assert {cell.case_id: cell.error.code for cell in page.cells} == {
        "yes": "",
        "odd": "invalid_answer",
        "none": "interrupt_in_batch",
    }
