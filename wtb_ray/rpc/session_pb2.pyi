from wtb_ray.rpc import execution_pb2 as _execution_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InteractRequest(_message.Message):
    __slots__ = ("request_id", "inspect", "modify", "breakpoint", "step", "continue_run", "rollback", "fork")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INSPECT_FIELD_NUMBER: _ClassVar[int]
    MODIFY_FIELD_NUMBER: _ClassVar[int]
    BREAKPOINT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_RUN_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    FORK_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    inspect: InspectRequest
    modify: ModifyRequest
    breakpoint: BreakpointRequest
    step: _execution_pb2.StepExecutionRequest
    continue_run: _execution_pb2.ResumeExecutionRequest
    rollback: _execution_pb2.RollbackExecutionRequest
    fork: _execution_pb2.ForkExecutionRequest
    def __init__(self, request_id: _Optional[str] = ..., inspect: _Optional[_Union[InspectRequest, _Mapping]] = ..., modify: _Optional[_Union[ModifyRequest, _Mapping]] = ..., breakpoint: _Optional[_Union[BreakpointRequest, _Mapping]] = ..., step: _Optional[_Union[_execution_pb2.StepExecutionRequest, _Mapping]] = ..., continue_run: _Optional[_Union[_execution_pb2.ResumeExecutionRequest, _Mapping]] = ..., rollback: _Optional[_Union[_execution_pb2.RollbackExecutionRequest, _Mapping]] = ..., fork: _Optional[_Union[_execution_pb2.ForkExecutionRequest, _Mapping]] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("execution_id", "checkpoint_id", "state")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    checkpoint_id: str
    state: bool
    def __init__(self, execution_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ..., state: bool = ...) -> None: ...

class ModifyRequest(_message.Message):
    __slots__ = ("execution_id", "values", "as_node", "replace", "idempotency_key", "cell")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    AS_NODE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    values: str
    as_node: str
    replace: bool
    idempotency_key: str
    cell: int
    def __init__(self, execution_id: _Optional[str] = ..., values: _Optional[str] = ..., as_node: _Optional[str] = ..., replace: bool = ..., idempotency_key: _Optional[str] = ..., cell: _Optional[int] = ...) -> None: ...

class BreakpointRequest(_message.Message):
    __slots__ = ("execution_id", "breakpoints", "idempotency_key")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    BREAKPOINTS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    breakpoints: _containers.RepeatedScalarFieldContainer[str]
    idempotency_key: str
    def __init__(self, execution_id: _Optional[str] = ..., breakpoints: _Optional[_Iterable[str]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class InteractResponse(_message.Message):
    __slots__ = ("request_id", "position", "forked", "operation", "error", "rested")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FORKED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RESTED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    position: Position
    forked: _execution_pb2.Forked
    operation: _execution_pb2.Operation
    error: _execution_pb2.Error
    rested: Position
    def __init__(self, request_id: _Optional[str] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., forked: _Optional[_Union[_execution_pb2.Forked, _Mapping]] = ..., operation: _Optional[_Union[_execution_pb2.Operation, _Mapping]] = ..., error: _Optional[_Union[_execution_pb2.Error, _Mapping]] = ..., rested: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("execution", "checkpoint_id", "step", "next_nodes", "questions", "state")
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NEXT_NODES_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    execution: _execution_pb2.Execution
    checkpoint_id: str
    step: int
    next_nodes: _containers.RepeatedScalarFieldContainer[str]
    questions: _containers.RepeatedCompositeFieldContainer[Question]
    state: str
    def __init__(self, execution: _Optional[_Union[_execution_pb2.Execution, _Mapping]] = ..., checkpoint_id: _Optional[str] = ..., step: _Optional[int] = ..., next_nodes: _Optional[_Iterable[str]] = ..., questions: _Optional[_Iterable[_Union[Question, _Mapping]]] = ..., state: _Optional[str] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("id", "value", "answered", "answer_schema")
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    id: str
    value: str
    answered: bool
    answer_schema: str
    def __init__(self, id: _Optional[str] = ..., value: _Optional[str] = ..., answered: bool = ..., answer_schema: _Optional[str] = ...) -> None: ...
