"""The committed stubs are those of the protos, and every RPC has its method."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from wtb_ray.serve.grpc import GrpcMethods

PROTOS = Path(__file__).parents[2] / "protos"
NAMES = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))


@pytest.mark.parametrize("name", NAMES)
def test_stubs_are_up_to_date(name: str, tmp_path: Path) -> None:
    """`make protos` makes them anew."""
    compiled = tmp_path / "set"
    wellknown = Path(protoc.__file__).parent / "_proto"
    arguments = [f"-I{PROTOS}", f"-I{wellknown}", f"--descriptor_set_out={compiled}", name]
    assert protoc.main(["protoc", *arguments]) == 0
    stub = import_module(f"wtb_ray.rpc.{Path(name).stem}_pb2")
    committed = FileDescriptorProto()
    stub.DESCRIPTOR.CopyToProto(committed)
    fresh = FileDescriptorSet.FromString(compiled.read_bytes()).file[0]
    assert without_json_names(committed) == without_json_names(fresh)


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """Field names for JSON are derived; only the compiler writes them down."""
    for message in file.message_type:
        for field in [*message.field, *(f for nested in message.nested_type for f in nested.field)]:
            field.ClearField("json_name")
    return file


def test_every_rpc_has_a_method_and_a_name_of_its_own() -> None:
    """Serve finds a method by the last part of the RPC's name alone."""
    methods = [
        (method.name, method.server_streaming)
        for name in NAMES
        for service in import_module(
            f"wtb_ray.rpc.{Path(name).stem}_pb2"
        ).DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert len({name for name, _ in methods}) == len(methods) > 0
    for name, streams in methods:
        method = getattr(GrpcMethods, name)
        assert inspect.isasyncgenfunction(method) == streams
        assert "grpc_context" in inspect.signature(method).parameters
