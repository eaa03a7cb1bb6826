"""Every exception of wtb-ray; this tree is the reference.

WTBError                    500 INTERNAL              something of ours broke
  InvalidRequest            422 INVALID_ARGUMENT      what was sent cannot be used; `field` and `reason` say why
    UnknownNode             422 INVALID_ARGUMENT      a binding or variant names a node the graph does not have
    UnknownVariant          422 INVALID_ARGUMENT      a binding names a variant that is not registered
    UnknownScorer           422 INVALID_ARGUMENT      a batch names a scorer that does not exist
    EmptyMatrix             422 INVALID_ARGUMENT      a batch without variants, cases or repetitions
    TooManyCells            422 INVALID_ARGUMENT      a batch larger than the limit, by its count
    InvalidCases            422 INVALID_ARGUMENT      a case file or list that cannot be read, by line and field
    InvalidState            422 INVALID_ARGUMENT      a state that does not fit the graph's channels
    InvalidAnswer           422 INVALID_ARGUMENT      an answer that does not fit the schema of its question
    Incompatible            422 INVALID_ARGUMENT      an execution cannot go on in this graph: what is missing, by name
    BundleRejected          422 INVALID_ARGUMENT      an archive whose digest, size or paths are not acceptable
    EntryFailed             422 INVALID_ARGUMENT      the entry raised, hung, or gave something that is no graph
    NotImportable           422 INVALID_ARGUMENT      an implementation that other processes cannot import
    UnsupportedGraph        422 INVALID_ARGUMENT      a graph that uses what cannot be checkpointed exactly
    UnsupportedNode         422 INVALID_ARGUMENT      a node that cannot run in an actor of its own; says what it uses
    EnvironmentFailed       422 INVALID_ARGUMENT      an environment that cannot be built: uv's words
      EnvironmentConflict   422 INVALID_ARGUMENT      it needs another version than the bench does; names both
      PythonMismatch        422 INVALID_ARGUMENT      it asks for another Python than the cluster's
    SecretMissing           422 INVALID_ARGUMENT      a secret that an environment names is not there
    LimitUnmeetable         422 INVALID_ARGUMENT      more is asked of a limit at once than it ever has
  NotFound                  404 NOT_FOUND
    UnknownProject          404 NOT_FOUND
    UnknownVersion          404 NOT_FOUND
    UnknownExecution        404 NOT_FOUND
    UnknownCheckpoint       404 NOT_FOUND
    UnknownBatch            404 NOT_FOUND
    UnknownBundle           404 NOT_FOUND
    UnknownObject           404 NOT_FOUND
    UnknownFile             404 NOT_FOUND             a file tree without this path
    UnknownOperation        404 NOT_FOUND
    UnknownEnvironment      404 NOT_FOUND
    UnknownLimit            404 NOT_FOUND
  Conflict                  409 FAILED_PRECONDITION
    InvalidTransition       409 FAILED_PRECONDITION   the command does not apply to the state found
    AlreadyExists           409 ALREADY_EXISTS
    IdempotencyConflict     409 FAILED_PRECONDITION   the key was used with another body
    NoConsistentFiles       409 FAILED_PRECONDITION   a place without a file tree; names the nearest with one
  Refused                   403 PERMISSION_DENIED     not allowed here (not loopback, not this host)
  Unavailable               503 UNAVAILABLE           try again: database, runner or cluster is not there
    DatabaseUnavailable     503 UNAVAILABLE
    RunnerUnavailable       503 UNAVAILABLE
    NodeActorDied           503 UNAVAILABLE           the process of a node died; it is tried again
    ResourcesUnavailable    503 UNAVAILABLE           no host has what a node asks for; it waits
    PackageIndexUnavailable 503 UNAVAILABLE           packages cannot be fetched just now: uv's words
    StorageFull             507 RESOURCE_EXHAUSTED    no room left where objects or workspaces lie
  ConfigurationError        500 INTERNAL              a setting is wrong; names it
  ObjectCorrupt             500 DATA_LOSS             stored bytes do not have the digest they are stored under
  Fenced                    409 ABORTED               another owner holds this execution; the writer must stop
  ExecutionFault            500 INTERNAL              why an execution ended without a result
    NodeFailed              500 INTERNAL              a node raised
    GraphFailed             500 INTERNAL              the graph failed outside any node (limit, reducer, router)
    UnstorableValue         500 INTERNAL              a value that would not come back as its type
    RunnerDied              500 INTERNAL              the process died in this execution when it ran alone
    RateLimited             500 INTERNAL              what nodes call was overloaded each time that it was tried
    TimedOut                500 INTERNAL              nodes, or what they call, took too long each time
    DeadlineExceeded        500 INTERNAL              an execution or a cell took longer than it may
    InterruptInBatch        500 INTERNAL              a cell asked a human and the batch has no answer for it
    ScorerFailed            500 INTERNAL              a scorer raised
    BudgetExceeded          500 INTERNAL              a cell that did not begin: the batch's budget was used up
    FilesRefused            500 INTERNAL              a workspace holds what cannot be kept; by path and reason
      QuotaExceeded         500 INTERNAL              a workspace has more bytes or files than it may have
    RestoreRefused          500 INTERNAL              a file tree cannot be restored; nothing was touched

Every class has a stable `code` (its name in snake case unless set), an HTTP status and a gRPC
status name. Arguments survive pickling, so errors cross Ray processes unchanged.
"""

import re
from typing import Any, ClassVar


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class WTBError(Exception):
    """Something inside the bench broke."""

    code: ClassVar[str] = "wtb_error"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            cls.code = _snake(cls.__name__)

    def __init__(self, message: str | None = None, **details: Any) -> None:
        self.message = message or (type(self).__doc__ or type(self).__name__).strip()
        self.details = details
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """The one JSON form of an error: `{"code", "message", "details"}`."""
        return {"code": self.code, "message": self.message, "details": self.details}


def _rebuild(cls: type[WTBError], message: str, details: dict[str, Any]) -> WTBError:
    return cls(message, **details)


def revived(body: dict[str, Any]) -> WTBError:
    """The error of its JSON form, as the class that has its code."""
    queue: list[type[WTBError]] = [WTBError]
    while queue:
        cls = queue.pop()
        if cls.code == body["code"]:
            return cls(
                body["message"], **{k: v for k, v in body["details"].items() if k != "message"}
            )
        queue.extend(cls.__subclasses__())
    return WTBError(body["message"])


class InvalidRequest(WTBError):
    """What was sent cannot be used."""

    http_status = 422
    grpc_status = "INVALID_ARGUMENT"


class UnknownNode(InvalidRequest):
    """The graph has no node of this name."""


class UnknownVariant(InvalidRequest):
    """No variant of this name is registered for the node."""


class UnknownScorer(InvalidRequest):
    """No scorer of this name exists."""


class EmptyMatrix(InvalidRequest):
    """A batch needs at least one variant, one case and one repetition."""


class TooManyCells(InvalidRequest):
    """The batch has more cells than the limit allows."""


class InvalidCases(InvalidRequest):
    """The test cases cannot be read."""


class InvalidState(InvalidRequest):
    """The state does not fit the graph's channels."""


class InvalidAnswer(InvalidRequest):
    """The answer does not fit the schema that the node gave with its question."""


class Incompatible(InvalidRequest):
    """The graph lacks a node that comes next, or a channel that has a value."""


class BundleRejected(InvalidRequest):
    """The bundle is not acceptable."""


class EntryFailed(InvalidRequest):
    """The entry did not give a graph."""


class NotImportable(InvalidRequest):
    """The implementation cannot be imported by other processes: move it into a module."""


class UnsupportedGraph(InvalidRequest):
    """The graph uses something that cannot be checkpointed exactly."""


class UnsupportedNode(InvalidRequest):
    """The node uses something that cannot be had in an actor of its own."""


class EnvironmentFailed(InvalidRequest):
    """The environment cannot be built."""


class EnvironmentConflict(EnvironmentFailed):
    """The environment needs another version of a package than the bench does."""


class PythonMismatch(EnvironmentFailed):
    """The environment asks for another Python than the cluster has."""


class SecretMissing(InvalidRequest):
    """A secret is in no place where secrets are looked for."""


class LimitUnmeetable(InvalidRequest):
    """More is asked of a limit at once than it ever has."""


class NotFound(WTBError):
    """There is no such thing."""

    http_status = 404
    grpc_status = "NOT_FOUND"


class UnknownProject(NotFound):
    """There is no project of this name."""


class UnknownVersion(NotFound):
    """There is no project version with this digest."""


class UnknownExecution(NotFound):
    """There is no execution with this id."""


class UnknownCheckpoint(NotFound):
    """The execution has no checkpoint with this id."""


class UnknownBatch(NotFound):
    """There is no batch with this id."""


class UnknownBundle(NotFound):
    """There is no bundle with this digest."""


class UnknownObject(NotFound):
    """There is no stored object with this digest."""


class UnknownFile(NotFound):
    """The file tree has no such path."""


class UnknownOperation(NotFound):
    """There is no operation with this id."""


class UnknownEnvironment(NotFound):
    """There is no environment with this digest."""


class UnknownLimit(NotFound):
    """There is no limit of this name."""


class Conflict(WTBError):
    """The request conflicts with what is there."""

    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class InvalidTransition(Conflict):
    """The command does not apply in the state found."""


class SharedExecution(Conflict):
    """Several cells share the execution, and the command would change the future of all of them."""


class AlreadyExists(Conflict):
    """It exists already."""

    grpc_status = "ALREADY_EXISTS"


class ProjectInUse(Conflict):
    """Executions or batches of the project have not ended."""


class ProjectInactive(Conflict):
    """The project is deactivated: nothing new of it may start."""


class ProjectRemoved(Conflict):
    """The project was removed: what it ran can only be read."""


class GraphIsCode(Conflict):
    """The workflow's graph is code: nodes are added and removed there."""


class IdempotencyConflict(Conflict):
    """This idempotency key was used with another request."""


class NoConsistentFiles(Conflict):
    """No file tree was kept at this place."""


class Refused(WTBError):
    """This is not allowed here."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class Unavailable(WTBError):
    """A needed part is not there at the moment; try again."""

    http_status = 503
    grpc_status = "UNAVAILABLE"


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""


class RunnerUnavailable(Unavailable):
    """No runner could be started for this code."""


class NodeActorDied(Unavailable):
    """The process in which a node ran alone has died."""


class ResourcesUnavailable(Unavailable):
    """No host of the cluster has the resources that a node asks for."""


class PackageIndexUnavailable(Unavailable):
    """Packages cannot be fetched from their index at the moment."""


class StorageFull(Unavailable):
    """There is no room left on the storage."""

    http_status = 507
    grpc_status = "RESOURCE_EXHAUSTED"


class JobFailed(WTBError):
    """The Ray job that was to see a batch to its end has ended before it."""


class ConfigurationError(WTBError):
    """A setting is wrong."""


class ObjectCorrupt(WTBError):
    """Stored bytes do not have the digest they are stored under."""

    grpc_status = "DATA_LOSS"


class Fenced(WTBError):
    """Another owner holds this execution now; this writer must stop."""

    http_status = 409
    grpc_status = "ABORTED"


class ExecutionFault(WTBError):
    """The execution ended without a result."""


class NodeFailed(ExecutionFault):
    """A node raised."""


class GraphFailed(ExecutionFault):
    """The graph failed outside any node."""


class UnstorableValue(ExecutionFault):
    """A value in the state would not come back from the checkpoint as its type."""


class RunnerDied(ExecutionFault):
    """The runner process died while this execution ran alone in it."""


class RateLimited(ExecutionFault):
    """What a node calls was overloaded each time that it was tried."""


class TimedOut(ExecutionFault):
    """A node, or what it calls, took too long each time that it was tried."""


class DeadlineExceeded(ExecutionFault):
    """It took longer than its deadline."""


class InterruptInBatch(ExecutionFault):
    """A node asked for an answer and the batch has none for it."""


class ScorerFailed(ExecutionFault):
    """A scorer raised."""


class BudgetExceeded(ExecutionFault):
    """A budget of the batch is used up; the cell did not begin."""


class FilesRefused(ExecutionFault):
    """The workspace holds something that cannot be kept."""


class QuotaExceeded(FilesRefused):
    """The workspace has more in it than it may have."""


class RestoreRefused(ExecutionFault):
    """The file tree cannot be restored; nothing was touched."""
