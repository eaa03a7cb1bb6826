from wtb_ray.rpc import execution_pb2 as _execution_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class StreamAuditEventsRequest(_message.Message):
    __slots__ = ("after", "types", "execution_id", "batch_id", "project", "actor", "follow")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    after: str
    types: _containers.RepeatedScalarFieldContainer[str]
    execution_id: str
    batch_id: str
    project: str
    actor: str
    follow: bool
    def __init__(self, after: _Optional[str] = ..., types: _Optional[_Iterable[str]] = ..., execution_id: _Optional[str] = ..., batch_id: _Optional[str] = ..., project: _Optional[str] = ..., actor: _Optional[str] = ..., follow: bool = ...) -> None: ...
