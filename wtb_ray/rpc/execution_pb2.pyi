import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OperationStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_STATUS_UNSPECIFIED: _ClassVar[OperationStatus]
    OPERATION_STATUS_RUNNING: _ClassVar[OperationStatus]
    OPERATION_STATUS_DONE: _ClassVar[OperationStatus]
    OPERATION_STATUS_FAILED: _ClassVar[OperationStatus]

class ExecutionStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXECUTION_STATUS_UNSPECIFIED: _ClassVar[ExecutionStatus]
    EXECUTION_STATUS_PENDING: _ClassVar[ExecutionStatus]
    EXECUTION_STATUS_RUNNING: _ClassVar[ExecutionStatus]
    EXECUTION_STATUS_PAUSED: _ClassVar[ExecutionStatus]
    EXECUTION_STATUS_COMPLETED: _ClassVar[ExecutionStatus]
    EXECUTION_STATUS_FAILED: _ClassVar[ExecutionStatus]
    EXECUTION_STATUS_CANCELLED: _ClassVar[ExecutionStatus]
OPERATION_STATUS_UNSPECIFIED: OperationStatus
OPERATION_STATUS_RUNNING: OperationStatus
OPERATION_STATUS_DONE: OperationStatus
OPERATION_STATUS_FAILED: OperationStatus
EXECUTION_STATUS_UNSPECIFIED: ExecutionStatus
EXECUTION_STATUS_PENDING: ExecutionStatus
EXECUTION_STATUS_RUNNING: ExecutionStatus
EXECUTION_STATUS_PAUSED: ExecutionStatus
EXECUTION_STATUS_COMPLETED: ExecutionStatus
EXECUTION_STATUS_FAILED: ExecutionStatus
EXECUTION_STATUS_CANCELLED: ExecutionStatus

class StartExecutionRequest(_message.Message):
    __slots__ = ("project", "initial_state", "variant_config", "breakpoints", "recursion_limit", "version", "priority", "idempotency_key", "deadline_s")
    class VariantConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    BREAKPOINTS_FIELD_NUMBER: _ClassVar[int]
    RECURSION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    project: str
    initial_state: str
    variant_config: _containers.ScalarMap[str, str]
    breakpoints: _containers.RepeatedScalarFieldContainer[str]
    recursion_limit: int
    version: str
    priority: int
    idempotency_key: str
    deadline_s: float
    def __init__(self, project: _Optional[str] = ..., initial_state: _Optional[str] = ..., variant_config: _Optional[_Mapping[str, str]] = ..., breakpoints: _Optional[_Iterable[str]] = ..., recursion_limit: _Optional[int] = ..., version: _Optional[str] = ..., priority: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class GetExecutionRequest(_message.Message):
    __slots__ = ("execution_id",)
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    def __init__(self, execution_id: _Optional[str] = ...) -> None: ...

class StreamExecutionEventsRequest(_message.Message):
    __slots__ = ("execution_id", "after", "types", "follow")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    after: str
    types: _containers.RepeatedScalarFieldContainer[str]
    follow: bool
    def __init__(self, execution_id: _Optional[str] = ..., after: _Optional[str] = ..., types: _Optional[_Iterable[str]] = ..., follow: bool = ...) -> None: ...

class PauseExecutionRequest(_message.Message):
    __slots__ = ("execution_id", "reason", "strategy", "expected_s", "idempotency_key")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_S_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    reason: str
    strategy: str
    expected_s: float
    idempotency_key: str
    def __init__(self, execution_id: _Optional[str] = ..., reason: _Optional[str] = ..., strategy: _Optional[str] = ..., expected_s: _Optional[float] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ResumeExecutionRequest(_message.Message):
    __slots__ = ("execution_id", "state", "as_node", "replace", "answers", "recursion_limit", "idempotency_key", "cell")
    class AnswersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AS_NODE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    RECURSION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    state: str
    as_node: str
    replace: bool
    answers: _containers.ScalarMap[str, str]
    recursion_limit: int
    idempotency_key: str
    cell: int
    def __init__(self, execution_id: _Optional[str] = ..., state: _Optional[str] = ..., as_node: _Optional[str] = ..., replace: bool = ..., answers: _Optional[_Mapping[str, str]] = ..., recursion_limit: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., cell: _Optional[int] = ...) -> None: ...

class ResumeExecutionResponse(_message.Message):
    __slots__ = ("execution", "operation")
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    execution: Execution
    operation: Operation
    def __init__(self, execution: _Optional[_Union[Execution, _Mapping]] = ..., operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class StepExecutionRequest(_message.Message):
    __slots__ = ("execution_id", "idempotency_key")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    idempotency_key: str
    def __init__(self, execution_id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class StopExecutionRequest(_message.Message):
    __slots__ = ("execution_id", "reason", "kill", "idempotency_key", "cell")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KILL_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    reason: str
    kill: bool
    idempotency_key: str
    cell: int
    def __init__(self, execution_id: _Optional[str] = ..., reason: _Optional[str] = ..., kill: bool = ..., idempotency_key: _Optional[str] = ..., cell: _Optional[int] = ...) -> None: ...

class RollbackExecutionRequest(_message.Message):
    __slots__ = ("execution_id", "checkpoint_id", "node", "where", "pause", "mode", "idempotency_key", "cell")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    checkpoint_id: str
    node: str
    where: str
    pause: bool
    mode: str
    idempotency_key: str
    cell: int
    def __init__(self, execution_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ..., node: _Optional[str] = ..., where: _Optional[str] = ..., pause: bool = ..., mode: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., cell: _Optional[int] = ...) -> None: ...

class ForkExecutionRequest(_message.Message):
    __slots__ = ("execution_id", "checkpoint_id", "node", "where", "state", "as_node", "replace", "variant_config", "version", "breakpoints", "recursion_limit", "count", "run", "mode", "idempotency_key")
    class VariantConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AS_NODE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BREAKPOINTS_FIELD_NUMBER: _ClassVar[int]
    RECURSION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    checkpoint_id: str
    node: str
    where: str
    state: str
    as_node: str
    replace: bool
    variant_config: _containers.ScalarMap[str, str]
    version: str
    breakpoints: _containers.RepeatedScalarFieldContainer[str]
    recursion_limit: int
    count: int
    run: bool
    mode: str
    idempotency_key: str
    def __init__(self, execution_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ..., node: _Optional[str] = ..., where: _Optional[str] = ..., state: _Optional[str] = ..., as_node: _Optional[str] = ..., replace: bool = ..., variant_config: _Optional[_Mapping[str, str]] = ..., version: _Optional[str] = ..., breakpoints: _Optional[_Iterable[str]] = ..., recursion_limit: _Optional[int] = ..., count: _Optional[int] = ..., run: bool = ..., mode: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class Forked(_message.Message):
    __slots__ = ("executions",)
    EXECUTIONS_FIELD_NUMBER: _ClassVar[int]
    executions: _containers.RepeatedCompositeFieldContainer[Execution]
    def __init__(self, executions: _Optional[_Iterable[_Union[Execution, _Mapping]]] = ...) -> None: ...

class ForkExecutionResponse(_message.Message):
    __slots__ = ("forked", "operation")
    FORKED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    forked: Forked
    operation: Operation
    def __init__(self, forked: _Optional[_Union[Forked, _Mapping]] = ..., operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class ListCheckpointsRequest(_message.Message):
    __slots__ = ("execution_id", "limit", "after")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    limit: int
    after: str
    def __init__(self, execution_id: _Optional[str] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class ListCheckpointsResponse(_message.Message):
    __slots__ = ("checkpoints", "next")
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    checkpoints: _containers.RepeatedCompositeFieldContainer[Checkpoint]
    next: str
    def __init__(self, checkpoints: _Optional[_Iterable[_Union[Checkpoint, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class NodeRun(_message.Message):
    __slots__ = ("name", "task_id", "duration_ms", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    task_id: str
    duration_ms: float
    error: str
    def __init__(self, name: _Optional[str] = ..., task_id: _Optional[str] = ..., duration_ms: _Optional[float] = ..., error: _Optional[str] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("id", "thread_id", "step", "source", "nodes", "next_nodes", "duration_ms", "manifest", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    THREAD_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_NODES_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    thread_id: str
    step: int
    source: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeRun]
    next_nodes: _containers.RepeatedScalarFieldContainer[str]
    duration_ms: float
    manifest: str
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., thread_id: _Optional[str] = ..., step: _Optional[int] = ..., source: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeRun, _Mapping]]] = ..., next_nodes: _Optional[_Iterable[str]] = ..., duration_ms: _Optional[float] = ..., manifest: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetOperationRequest(_message.Message):
    __slots__ = ("operation_id",)
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    operation_id: str
    def __init__(self, operation_id: _Optional[str] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("id", "kind", "execution_id", "status", "result", "error", "created_at", "ended_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    execution_id: str
    status: OperationStatus
    result: str
    error: Error
    created_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., execution_id: _Optional[str] = ..., status: _Optional[_Union[OperationStatus, str]] = ..., result: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    details: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., details: _Optional[str] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("code", "type", "message", "node", "attempt", "traceback")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    code: str
    type: str
    message: str
    node: str
    attempt: int
    traceback: str
    def __init__(self, code: _Optional[str] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., node: _Optional[str] = ..., attempt: _Optional[int] = ..., traceback: _Optional[str] = ...) -> None: ...

class Execution(_message.Message):
    __slots__ = ("id", "project", "version", "binding", "status", "reason", "thread_id", "head", "head_step", "recursion_limit", "breakpoints", "batch_id", "case_id", "repetition", "attempt", "error", "latency_ms", "node_runs", "created_at", "started_at", "ended_at", "wanted", "forked_from", "forked_at", "parking", "deadline_s")
    class BindingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    THREAD_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_STEP_FIELD_NUMBER: _ClassVar[int]
    RECURSION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    BREAKPOINTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    CASE_ID_FIELD_NUMBER: _ClassVar[int]
    REPETITION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_RUNS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    FORKED_AT_FIELD_NUMBER: _ClassVar[int]
    PARKING_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    project: str
    version: str
    binding: _containers.ScalarMap[str, str]
    status: ExecutionStatus
    reason: str
    thread_id: str
    head: str
    head_step: int
    recursion_limit: int
    breakpoints: _containers.RepeatedScalarFieldContainer[str]
    batch_id: str
    case_id: str
    repetition: int
    attempt: int
    error: Fault
    latency_ms: float
    node_runs: int
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    wanted: str
    forked_from: str
    forked_at: str
    parking: Parking
    deadline_s: float
    def __init__(self, id: _Optional[str] = ..., project: _Optional[str] = ..., version: _Optional[str] = ..., binding: _Optional[_Mapping[str, str]] = ..., status: _Optional[_Union[ExecutionStatus, str]] = ..., reason: _Optional[str] = ..., thread_id: _Optional[str] = ..., head: _Optional[str] = ..., head_step: _Optional[int] = ..., recursion_limit: _Optional[int] = ..., breakpoints: _Optional[_Iterable[str]] = ..., batch_id: _Optional[str] = ..., case_id: _Optional[str] = ..., repetition: _Optional[int] = ..., attempt: _Optional[int] = ..., error: _Optional[_Union[Fault, _Mapping]] = ..., latency_ms: _Optional[float] = ..., node_runs: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., wanted: _Optional[str] = ..., forked_from: _Optional[str] = ..., forked_at: _Optional[str] = ..., parking: _Optional[_Union[Parking, _Mapping]] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class Parking(_message.Message):
    __slots__ = ("strategy", "kept", "released", "left_out", "runner", "host")
    class LeftOutEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    RUNNER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    strategy: str
    kept: _containers.RepeatedScalarFieldContainer[str]
    released: _containers.RepeatedScalarFieldContainer[str]
    left_out: _containers.ScalarMap[str, str]
    runner: str
    host: str
    def __init__(self, strategy: _Optional[str] = ..., kept: _Optional[_Iterable[str]] = ..., released: _Optional[_Iterable[str]] = ..., left_out: _Optional[_Mapping[str, str]] = ..., runner: _Optional[str] = ..., host: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("cursor", "at", "type", "project", "execution_id", "batch_id", "actor", "payload")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    at: _timestamp_pb2.Timestamp
    type: str
    project: str
    execution_id: str
    batch_id: str
    actor: str
    payload: str
    def __init__(self, cursor: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., type: _Optional[str] = ..., project: _Optional[str] = ..., execution_id: _Optional[str] = ..., batch_id: _Optional[str] = ..., actor: _Optional[str] = ..., payload: _Optional[str] = ...) -> None: ...
