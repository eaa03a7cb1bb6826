"""Between the messages of control and sessions and the models: no decisions, no I/O."""

from typing import Any

from wtb_ray import errors
from wtb_ray.api import Checkpoint, Page
from wtb_ray.control import (
    BreakpointsRequest,
    Forked,
    ForkRequest,
    Operation,
    PauseRequest,
    Question,
    ResumeRequest,
    RollbackRequest,
    StateRequest,
    StopRequest,
)
from wtb_ray.model import Execution
from wtb_ray.rpc import batch_pb2, execution_pb2, session_pb2
from wtb_ray.serve.grpc_messages import (
    as_json,
    execution,
    made,
    optional,
    present,
    timestamp,
    value,
)
from wtb_ray.serve.http_requests import MAX_PAGE

PAGE = 50


def pause_request(message: execution_pb2.PauseExecutionRequest) -> PauseRequest:
    """The request that HTTP would have had, as for all that follow.

    Raises:
        InvalidRequest: A field cannot be used.
    """
    return made(
        PauseRequest,
        reason=optional(message, "reason"),
        strategy=message.strategy or None,
        expected_s=optional(message, "expected_s"),
    )


def resume_request(message: execution_pb2.ResumeExecutionRequest) -> ResumeRequest:
    return made(
        ResumeRequest,
        **_changes(message),
        answers={id: value(a, f"answers.{id}", None) for id, a in message.answers.items()},
        recursion_limit=optional(message, "recursion_limit"),
        cell=optional(message, "cell"),
    )


def stop_request(message: execution_pb2.StopExecutionRequest) -> StopRequest:
    return made(
        StopRequest,
        reason=optional(message, "reason"),
        kill=message.kill,
        cell=optional(message, "cell"),
    )


def rollback_request(message: execution_pb2.RollbackExecutionRequest) -> RollbackRequest:
    return made(
        RollbackRequest,
        **_place(message),
        pause=message.pause,
        cell=optional(message, "cell"),
    )


def fork_request(message: execution_pb2.ForkExecutionRequest) -> ForkRequest:
    count = optional(message, "count")
    return made(
        ForkRequest,
        **_place(message),
        **_changes(message),
        variant_config=dict(message.variant_config),
        version=optional(message, "version"),
        breakpoints=list(message.breakpoints),
        recursion_limit=optional(message, "recursion_limit"),
        count=1 if count is None else count,
        run=message.run,
    )


def state_request(message: session_pb2.ModifyRequest) -> StateRequest:
    return made(
        StateRequest,
        values=value(message.values, "values", {}),
        as_node=optional(message, "as_node"),
        replace=message.replace,
        cell=optional(message, "cell"),
    )


def breakpoints_request(message: session_pb2.BreakpointRequest) -> BreakpointsRequest:
    return made(BreakpointsRequest, breakpoints=list(message.breakpoints))


def page_size(
    message: execution_pb2.ListCheckpointsRequest | batch_pb2.GetBatchTestResultsRequest,
    default: int = PAGE,
) -> int:
    """How many items the page may have.

    Raises:
        InvalidRequest: No page has so many.
    """
    limit = optional(message, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= MAX_PAGE:
        raise errors.InvalidRequest(
            f"limit: {limit} is not from 1 to {MAX_PAGE}", field="limit", reason="out of range"
        )
    return int(limit)


def _place(message: Any) -> dict[str, Any]:
    """The place and the mode of a rollback or a fork."""
    return {
        "checkpoint_id": optional(message, "checkpoint_id"),
        "node": optional(message, "node"),
        "where": message.where or "exit",
        "mode": message.mode or "clean",
    }


def _changes(message: Any) -> dict[str, Any]:
    """What is changed of the state before an execution goes on."""
    return {
        "state": value(message.state, "state", None),
        "as_node": optional(message, "as_node"),
        "replace": message.replace,
    }


def resumed(found: Execution | Operation) -> execution_pb2.ResumeExecutionResponse:
    if isinstance(found, Operation):
        return execution_pb2.ResumeExecutionResponse(operation=operation(found))
    return execution_pb2.ResumeExecutionResponse(execution=execution(found))


def fork_response(found: Forked | Operation) -> execution_pb2.ForkExecutionResponse:
    if isinstance(found, Operation):
        return execution_pb2.ForkExecutionResponse(operation=operation(found))
    return execution_pb2.ForkExecutionResponse(forked=forked(found))


def forked(model: Forked) -> execution_pb2.Forked:
    return execution_pb2.Forked(executions=[execution(made) for made in model.executions])


def operation(model: Operation) -> execution_pb2.Operation:
    return execution_pb2.Operation(
        **present(model, "id kind execution_id"),
        status=f"OPERATION_STATUS_{model.status}",
        result=None if model.result is None else as_json(model.result),
        error=None if model.error is None else error(model.error),
        created_at=timestamp(model.created_at),
        ended_at=timestamp(model.ended_at),
    )


def error(body: dict[str, Any]) -> execution_pb2.Error:
    """The message of `{"code", "message", "details"}`."""
    return execution_pb2.Error(
        code=body["code"], message=body["message"], details=as_json(body["details"])
    )


def checkpoints(page: Page[Checkpoint]) -> execution_pb2.ListCheckpointsResponse:
    return execution_pb2.ListCheckpointsResponse(
        checkpoints=[_checkpoint(item) for item in page.items], next=page.next
    )


def _checkpoint(model: Checkpoint) -> execution_pb2.Checkpoint:
    return execution_pb2.Checkpoint(
        **present(model, "id thread_id step source next_nodes duration_ms manifest"),
        nodes=[
            execution_pb2.NodeRun(**present(node, "name task_id duration_ms error"))
            for node in model.nodes
        ],
        created_at=timestamp(model.created_at),
    )


def question(model: Question) -> session_pb2.Question:
    schema = model.answer_schema
    return session_pb2.Question(
        id=model.id,
        value=as_json(model.value),
        answered=model.answered,
        answer_schema=None if schema is None else as_json(schema),
    )
