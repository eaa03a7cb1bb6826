"""Between the messages of batches in `wtb.v1` and the models: no decisions, no I/O."""

from typing import Any

from wtb_ray import errors
from wtb_ray.api import BatchTestRequest, CellResult, Page, Progress, StopRequest
from wtb_ray.model import Batch, Budget, Cost, Fault
from wtb_ray.rpc import batch_pb2
from wtb_ray.serve.grpc_messages import as_json, fault, made, optional, present, timestamp, value
from wtb_ray.states import CellStatus


def batch_request(message: batch_pb2.RunBatchTestRequest) -> BatchTestRequest:
    """The request that HTTP would have had.

    Raises:
        InvalidRequest: A field cannot be used.
    """
    fields = {
        "project": message.project,
        "version": optional(message, "version"),
        "variant_matrix": [dict(binding.nodes) for binding in message.variant_matrix],
        "test_cases": [_case(c, f"test_cases.{i}") for i, c in enumerate(message.test_cases)],
        "scorers": [
            {"name": s.name, "args": value(s.args, f"scorers.{i}.args", {})}
            for i, s in enumerate(message.scorers)
        ],
        "repetitions": optional(message, "repetitions"),
        "node_errors": message.node_errors or None,
        "share_prefix": optional(message, "share_prefix"),
        "interrupts": message.interrupts or None,
        "priority": message.priority,
        "recursion_limit": optional(message, "recursion_limit"),
        "deadline_s": optional(message, "deadline_s"),
        "budget": _budget(message.budget) if message.HasField("budget") else None,
    }
    return made(BatchTestRequest, **{k: v for k, v in fields.items() if v is not None})


def _budget(message: batch_pb2.Budget) -> dict[str, Any]:
    return {name: optional(message, name) for name in Budget.model_fields}


def _case(message: batch_pb2.TestCase, field: str) -> dict[str, Any]:
    return {
        "id": message.id,
        "input": value(message.input, f"{field}.input", {}),
        "expected": value(message.expected, f"{field}.expected", None),
        "metadata": value(message.metadata, f"{field}.metadata", {}),
        "answers": value(message.answers, f"{field}.answers", []),
    }


def stop_request(message: batch_pb2.StopBatchTestRequest) -> StopRequest:
    """The request that HTTP would have had.

    Raises:
        InvalidRequest: A field cannot be used.
    """
    return made(
        StopRequest, reason=optional(message, "reason"), variant=optional(message, "variant")
    )


def cell_status(message: batch_pb2.GetBatchTestResultsRequest) -> CellStatus | None:
    """The status that is asked for; None for all.

    Raises:
        InvalidRequest: There is no such status.
    """
    if message.status == batch_pb2.CELL_STATUS_UNSPECIFIED:
        return None
    try:
        name = batch_pb2.CellStatus.Name(message.status)
    except ValueError as e:
        raise errors.InvalidRequest(
            f"status: {message.status} is none", field="status", reason="unknown"
        ) from e
    return CellStatus(name.removeprefix("CELL_STATUS_"))


def batch(model: Batch) -> batch_pb2.Batch:
    return batch_pb2.Batch(
        **present(
            model,
            "id project version variants repetitions node_errors cases cells counts priority"
            " share_prefix interrupts deadline_s reason",
        ),
        status=f"BATCH_STATUS_{model.status}",
        bindings=[batch_pb2.Binding(nodes=binding) for binding in model.bindings],
        scorers=[batch_pb2.Scorer(name=s.name, args=as_json(s.args)) for s in model.scorers],
        budget=None
        if model.budget is None
        else batch_pb2.Budget(**present(model.budget, " ".join(Budget.model_fields))),
        cost=_cost(model.cost or Cost()),
        cost_incurred=_cost(model.cost_incurred or Cost()),
        created_at=timestamp(model.created_at),
        started_at=timestamp(model.started_at),
        ended_at=timestamp(model.ended_at),
    )


def results(page: Page[CellResult]) -> batch_pb2.GetBatchTestResultsResponse:
    return batch_pb2.GetBatchTestResultsResponse(
        cells=[_cell(item) for item in page.items], next=page.next
    )


def _cell(model: CellResult) -> batch_pb2.Cell:
    return batch_pb2.Cell(
        **present(
            model,
            "id variant binding case_id repetition execution_id latency_ms node_runs usage"
            " shared_failure",
        ),
        status=f"CELL_STATUS_{model.status}",
        scores=[batch_pb2.Score(metric=m, value=v) for m, v in model.scores.items()],
        error=fault(None if model.error is None else Fault.model_validate(model.error)),
    )


def progress(model: Progress) -> batch_pb2.BatchTestProgress:
    return batch_pb2.BatchTestProgress(
        **present(
            model,
            "total counts finished percent rate remaining_s remaining_low_s remaining_high_s",
        ),
        batch_id=model.id,
        cost=_cost(model.cost),
        cost_incurred=_cost(model.cost_incurred),
        status=f"BATCH_STATUS_{model.status}",
    )


def _cost(model: Cost) -> batch_pb2.Cost:
    return batch_pb2.Cost(**present(model, "node_runs duration_ms usage"))
