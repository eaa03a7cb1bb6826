import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from wtb_ray.rpc import execution_pb2 as _execution_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BATCH_STATUS_UNSPECIFIED: _ClassVar[BatchStatus]
    BATCH_STATUS_PENDING: _ClassVar[BatchStatus]
    BATCH_STATUS_RUNNING: _ClassVar[BatchStatus]
    BATCH_STATUS_PAUSED: _ClassVar[BatchStatus]
    BATCH_STATUS_COMPLETED: _ClassVar[BatchStatus]
    BATCH_STATUS_FAILED: _ClassVar[BatchStatus]
    BATCH_STATUS_CANCELLED: _ClassVar[BatchStatus]

class CellStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CELL_STATUS_UNSPECIFIED: _ClassVar[CellStatus]
    CELL_STATUS_PENDING: _ClassVar[CellStatus]
    CELL_STATUS_RUNNING: _ClassVar[CellStatus]
    CELL_STATUS_SCORING: _ClassVar[CellStatus]
    CELL_STATUS_DONE: _ClassVar[CellStatus]
    CELL_STATUS_FAILED: _ClassVar[CellStatus]
    CELL_STATUS_EXCLUDED: _ClassVar[CellStatus]
    CELL_STATUS_CANCELLED: _ClassVar[CellStatus]
BATCH_STATUS_UNSPECIFIED: BatchStatus
BATCH_STATUS_PENDING: BatchStatus
BATCH_STATUS_RUNNING: BatchStatus
BATCH_STATUS_PAUSED: BatchStatus
BATCH_STATUS_COMPLETED: BatchStatus
BATCH_STATUS_FAILED: BatchStatus
BATCH_STATUS_CANCELLED: BatchStatus
CELL_STATUS_UNSPECIFIED: CellStatus
CELL_STATUS_PENDING: CellStatus
CELL_STATUS_RUNNING: CellStatus
CELL_STATUS_SCORING: CellStatus
CELL_STATUS_DONE: CellStatus
CELL_STATUS_FAILED: CellStatus
CELL_STATUS_EXCLUDED: CellStatus
CELL_STATUS_CANCELLED: CellStatus

class Binding(_message.Message):
    __slots__ = ("nodes",)
    class NodesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.ScalarMap[str, str]
    def __init__(self, nodes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TestCase(_message.Message):
    __slots__ = ("id", "input", "expected", "metadata", "answers")
    ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    input: str
    expected: str
    metadata: str
    answers: str
    def __init__(self, id: _Optional[str] = ..., input: _Optional[str] = ..., expected: _Optional[str] = ..., metadata: _Optional[str] = ..., answers: _Optional[str] = ...) -> None: ...

class Scorer(_message.Message):
    __slots__ = ("name", "args")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    args: str
    def __init__(self, name: _Optional[str] = ..., args: _Optional[str] = ...) -> None: ...

class RunBatchTestRequest(_message.Message):
    __slots__ = ("project", "version", "variant_matrix", "test_cases", "scorers", "repetitions", "node_errors", "priority", "recursion_limit", "idempotency_key", "share_prefix", "interrupts", "budget", "deadline_s")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_MATRIX_FIELD_NUMBER: _ClassVar[int]
    TEST_CASES_FIELD_NUMBER: _ClassVar[int]
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    REPETITIONS_FIELD_NUMBER: _ClassVar[int]
    NODE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    RECURSION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    SHARE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    project: str
    version: str
    variant_matrix: _containers.RepeatedCompositeFieldContainer[Binding]
    test_cases: _containers.RepeatedCompositeFieldContainer[TestCase]
    scorers: _containers.RepeatedCompositeFieldContainer[Scorer]
    repetitions: int
    node_errors: str
    priority: int
    recursion_limit: int
    idempotency_key: str
    share_prefix: bool
    interrupts: str
    budget: Budget
    deadline_s: float
    def __init__(self, project: _Optional[str] = ..., version: _Optional[str] = ..., variant_matrix: _Optional[_Iterable[_Union[Binding, _Mapping]]] = ..., test_cases: _Optional[_Iterable[_Union[TestCase, _Mapping]]] = ..., scorers: _Optional[_Iterable[_Union[Scorer, _Mapping]]] = ..., repetitions: _Optional[int] = ..., node_errors: _Optional[str] = ..., priority: _Optional[int] = ..., recursion_limit: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., share_prefix: bool = ..., interrupts: _Optional[str] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class GetBatchTestRequest(_message.Message):
    __slots__ = ("batch_id",)
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    def __init__(self, batch_id: _Optional[str] = ...) -> None: ...

class GetBatchTestResultsRequest(_message.Message):
    __slots__ = ("batch_id", "status", "limit", "after")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    status: CellStatus
    limit: int
    after: str
    def __init__(self, batch_id: _Optional[str] = ..., status: _Optional[_Union[CellStatus, str]] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class GetBatchTestResultsResponse(_message.Message):
    __slots__ = ("cells", "next")
    CELLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    next: str
    def __init__(self, cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class StopBatchTestRequest(_message.Message):
    __slots__ = ("batch_id", "reason", "variant", "idempotency_key")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    reason: str
    variant: str
    idempotency_key: str
    def __init__(self, batch_id: _Optional[str] = ..., reason: _Optional[str] = ..., variant: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("cells", "node_runs", "tokens", "cost", "wall_time_s")
    CELLS_FIELD_NUMBER: _ClassVar[int]
    NODE_RUNS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    WALL_TIME_S_FIELD_NUMBER: _ClassVar[int]
    cells: int
    node_runs: int
    tokens: float
    cost: float
    wall_time_s: float
    def __init__(self, cells: _Optional[int] = ..., node_runs: _Optional[int] = ..., tokens: _Optional[float] = ..., cost: _Optional[float] = ..., wall_time_s: _Optional[float] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("node_runs", "duration_ms", "usage")
    class UsageEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_RUNS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    node_runs: int
    duration_ms: float
    usage: _containers.ScalarMap[str, float]
    def __init__(self, node_runs: _Optional[int] = ..., duration_ms: _Optional[float] = ..., usage: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("id", "project", "version", "status", "variants", "bindings", "scorers", "repetitions", "node_errors", "cases", "cells", "counts", "priority", "share_prefix", "interrupts", "deadline_s", "budget", "cost", "cost_incurred", "reason", "created_at", "started_at", "ended_at")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    REPETITIONS_FIELD_NUMBER: _ClassVar[int]
    NODE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SHARE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    COST_INCURRED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    project: str
    version: str
    status: BatchStatus
    variants: _containers.RepeatedScalarFieldContainer[str]
    bindings: _containers.RepeatedCompositeFieldContainer[Binding]
    scorers: _containers.RepeatedCompositeFieldContainer[Scorer]
    repetitions: int
    node_errors: str
    cases: int
    cells: int
    counts: _containers.ScalarMap[str, int]
    priority: int
    share_prefix: bool
    interrupts: str
    deadline_s: float
    budget: Budget
    cost: Cost
    cost_incurred: Cost
    reason: str
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., project: _Optional[str] = ..., version: _Optional[str] = ..., status: _Optional[_Union[BatchStatus, str]] = ..., variants: _Optional[_Iterable[str]] = ..., bindings: _Optional[_Iterable[_Union[Binding, _Mapping]]] = ..., scorers: _Optional[_Iterable[_Union[Scorer, _Mapping]]] = ..., repetitions: _Optional[int] = ..., node_errors: _Optional[str] = ..., cases: _Optional[int] = ..., cells: _Optional[int] = ..., counts: _Optional[_Mapping[str, int]] = ..., priority: _Optional[int] = ..., share_prefix: bool = ..., interrupts: _Optional[str] = ..., deadline_s: _Optional[float] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., cost_incurred: _Optional[_Union[Cost, _Mapping]] = ..., reason: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("metric", "value")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    metric: str
    value: float
    def __init__(self, metric: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Cell(_message.Message):
    __slots__ = ("id", "variant", "binding", "case_id", "repetition", "status", "execution_id", "scores", "latency_ms", "node_runs", "usage", "error", "shared_failure")
    class BindingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class UsageEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    CASE_ID_FIELD_NUMBER: _ClassVar[int]
    REPETITION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_RUNS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SHARED_FAILURE_FIELD_NUMBER: _ClassVar[int]
    id: int
    variant: str
    binding: _containers.ScalarMap[str, str]
    case_id: str
    repetition: int
    status: CellStatus
    execution_id: str
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    latency_ms: float
    node_runs: int
    usage: _containers.ScalarMap[str, float]
    error: _execution_pb2.Fault
    shared_failure: bool
    def __init__(self, id: _Optional[int] = ..., variant: _Optional[str] = ..., binding: _Optional[_Mapping[str, str]] = ..., case_id: _Optional[str] = ..., repetition: _Optional[int] = ..., status: _Optional[_Union[CellStatus, str]] = ..., execution_id: _Optional[str] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., latency_ms: _Optional[float] = ..., node_runs: _Optional[int] = ..., usage: _Optional[_Mapping[str, float]] = ..., error: _Optional[_Union[_execution_pb2.Fault, _Mapping]] = ..., shared_failure: bool = ...) -> None: ...

class BatchTestProgress(_message.Message):
    __slots__ = ("batch_id", "status", "total", "counts", "finished", "percent", "rate", "remaining_s", "cost", "cost_incurred", "remaining_low_s", "remaining_high_s")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    COST_INCURRED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_LOW_S_FIELD_NUMBER: _ClassVar[int]
    REMAINING_HIGH_S_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    status: BatchStatus
    total: int
    counts: _containers.ScalarMap[str, int]
    finished: int
    percent: float
    rate: float
    remaining_s: float
    cost: Cost
    cost_incurred: Cost
    remaining_low_s: float
    remaining_high_s: float
    def __init__(self, batch_id: _Optional[str] = ..., status: _Optional[_Union[BatchStatus, str]] = ..., total: _Optional[int] = ..., counts: _Optional[_Mapping[str, int]] = ..., finished: _Optional[int] = ..., percent: _Optional[float] = ..., rate: _Optional[float] = ..., remaining_s: _Optional[float] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., cost_incurred: _Optional[_Union[Cost, _Mapping]] = ..., remaining_low_s: _Optional[float] = ..., remaining_high_s: _Optional[float] = ...) -> None: ...
