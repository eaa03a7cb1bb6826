"""`/workflows`: registered projects, their versions, nodes and variants, and what starts from them."""

from fastapi import APIRouter

from wtb_ray import errors
from wtb_ray.api import BatchTestRequest, ExecuteRequest, NodeView, Page
from wtb_ray.control import NewVariant, ProjectChange, VariantChange
from wtb_ray.model import Batch, Execution, ProjectSpec, ProjectVersion, VariantSpec
from wtb_ray.serve.http_requests import Actor, After, CommandRoute, Here, Limit, sliced
from wtb_ray.serve.idempotency import id_of

commands = APIRouter(prefix="/workflows", tags=["workflows"], route_class=CommandRoute)
reads = APIRouter(prefix="/workflows", tags=["workflows"])


@commands.post("", status_code=201)
async def register_workflow(spec: ProjectSpec, here: Here, actor: Actor) -> ProjectVersion:
    """Makes a version of a workflow; the same spec and code give the same version."""
    version: ProjectVersion = await here.command("register", spec, actor)
    return version


@commands.post("/{name}/execute", status_code=202)
async def execute_workflow(
    name: str, request: ExecuteRequest, here: Here, actor: Actor
) -> Execution:
    """Starts one run of one input."""
    execution: Execution = await here.command("execute", name, request, actor, id_of("e"))
    return execution


@commands.post("/{name}/batch-test", status_code=202)
async def batch_test_workflow(
    name: str, request: BatchTestRequest, here: Here, actor: Actor
) -> Batch:
    """Starts a batch of this workflow."""
    if request.project not in (None, name):
        raise errors.InvalidRequest(
            f"project is {request.project!r} in the body and {name!r} in the path",
            field="project",
            reason="another project than the path's",
        )
    named = request.model_copy(update={"project": name})
    batch: Batch = await here.command("batch_test", named, actor, id_of("b"))
    return batch


@commands.put("/{name}")
async def update_workflow(name: str, spec: ProjectSpec, here: Here, actor: Actor) -> ProjectVersion:
    """Makes a version of this workflow its newest; what runs keeps the version that it has."""
    if spec.name != name:
        raise errors.InvalidRequest(
            f"name is {spec.name!r} in the body and {name!r} in the path",
            field="name",
            reason="another name than the path's",
        )
    await here.store.projects.get(name)
    version: ProjectVersion = await here.command("register", spec, actor)
    return version


@commands.patch("/{name}")
async def change_workflow(
    name: str, change: ProjectChange, here: Here, actor: Actor
) -> ProjectVersion:
    """Lets nothing new of a workflow start, or again; what runs goes on, open batches to their end."""
    version: ProjectVersion = await here.command("set_active", name, change.active, actor)
    return version


@commands.delete("/{name}")
async def remove_workflow(name: str, here: Here, actor: Actor) -> ProjectVersion:
    """Takes a workflow away of which nothing runs; its executions, batches and events stay."""
    version: ProjectVersion = await here.command("remove_project", name, actor)
    return version


@commands.post("/{name}/nodes/{node:path}/variants", status_code=201)
async def add_variant(
    name: str, node: str, variant: NewVariant, here: Here, actor: Actor
) -> ProjectVersion:
    """Makes a version of a workflow with one more variant of a node."""
    version: ProjectVersion = await here.command("add_variant", name, node, variant, actor)
    return version


@commands.patch("/{name}/nodes/{node:path}/variants/{variant}")
async def change_variant(
    name: str, node: str, variant: str, change: VariantChange, here: Here, actor: Actor
) -> ProjectVersion:
    """Makes a version of a workflow in which nothing new may take a variant, or may again."""
    version: ProjectVersion = await here.command(
        "set_variant", name, node, variant, change.active, actor
    )
    return version


@commands.delete("/{name}/nodes/{node:path}/variants/{variant}")
async def remove_variant(
    name: str, node: str, variant: str, here: Here, actor: Actor
) -> ProjectVersion:
    """Makes a version of a workflow without a variant; what runs keeps the version that it has."""
    version: ProjectVersion = await here.command("remove_variant", name, node, variant, actor)
    return version


@commands.post("/{name}/nodes")
async def add_node(name: str, here: Here) -> None:
    """Refused: the graph of a workflow is code, and nodes are added there."""
    version = await here.store.projects.get(name)
    raise _graph_is_code(version, f"add the node there and PUT /workflows/{name} with its bundle")


@commands.put("/{name}/nodes/{node:path}")
async def replace_node(name: str, node: str, here: Here) -> None:
    """Refused: the graph of a workflow is code; another implementation of a node is a variant."""
    version = await here.store.projects.get(name)
    found = _node(version, node).name
    variants = f"/workflows/{name}/nodes/{found}/variants"
    raise _graph_is_code(
        version, f"POST {variants} adds another implementation, PUT /workflows/{name} other code"
    )


@commands.delete("/{name}/nodes/{node:path}")
async def remove_node(name: str, node: str, here: Here) -> None:
    """Refused: the graph of a workflow is code, and nodes are removed there."""
    version = await here.store.projects.get(name)
    found = _node(version, node).name
    raise _graph_is_code(
        version, f"remove {found!r} there and PUT /workflows/{name} with its bundle"
    )


@reads.get("")
async def list_workflows(
    here: Here, limit: Limit = 50, after: After = None
) -> Page[ProjectVersion]:
    """The newest version of each workflow, by name."""
    return await here.store.projects.list(limit, after)


@reads.get("/{name}")
async def get_workflow(name: str, here: Here, version: str | None = None) -> ProjectVersion:
    """A workflow; its newest version unless one is named."""
    return await here.store.projects.get(name, version)


@reads.get("/{name}/versions")
async def list_versions(
    name: str, here: Here, limit: Limit = 50, after: After = None
) -> Page[ProjectVersion]:
    """All versions of a workflow, newest first."""
    versions = await here.store.projects.versions(name)
    return sliced(versions, [v.version for v in versions], limit, after)


@reads.get("/{name}/nodes")
async def list_nodes(name: str, here: Here, version: str | None = None) -> list[NodeView]:
    """The nodes of a workflow's graph, each with its variants."""
    return _nodes(await here.store.projects.get(name, version))


@reads.get("/{name}/nodes/{node:path}/variants")
async def list_variants(
    name: str, node: str, here: Here, version: str | None = None
) -> dict[str, VariantSpec]:
    """The variants of a node by name; a node of a subgraph is `outer/inner`."""
    return _node(await here.store.projects.get(name, version), node).variants


def _node(version: ProjectVersion, node: str) -> NodeView:
    for view in _nodes(version):
        if view.name == node:
            return view
    raise errors.NotFound(
        f"workflow {version.project!r} has no node {node!r}", field="node", reason="unknown"
    )


def _graph_is_code(version: ProjectVersion, cure: str) -> errors.GraphIsCode:
    return errors.GraphIsCode(
        f"the graph of {version.project!r} is made by {version.spec.entry}: {cure}",
        field="name",
        reason="no declarative workflow",
        entry=version.spec.entry,
    )


def _nodes(version: ProjectVersion) -> list[NodeView]:
    return [
        NodeView(
            name=node.name,
            implementation=node.implementation,
            is_async=node.is_async,
            subgraph=node.subgraph,
            apart=node.apart,
            environment=version.spec.environment_of(node.name, None),
            resources=version.spec.resources_of(node.name, None),
            fingerprint=node.fingerprint,
            variants=version.spec.variants.get(node.name, {}),
        )
        for node in version.graph.nodes
    ]
