r"""The graph: from collecting data to watching the deployed model.

collect - validate -+- features -+- tune - train - evaluate - approve - deploy - monitor
                    +- profile  -+    \____________/
                                    until the gate passes
"""

from langgraph.graph import END, START, StateGraph

from wtb_ray.examples.ml import data, release, train
from wtb_ray.examples.ml.evaluate import evaluate
from wtb_ray.examples.ml.features import pixels
from wtb_ray.examples.ml.state import State


def build_graph() -> StateGraph[State]:
    """The pipeline with pixels as features and a net as the model."""
    graph = StateGraph(State)
    graph.add_node("collect", data.collect)
    graph.add_node("validate", data.validate)
    graph.add_node("features", pixels)
    graph.add_node("profile", data.profile)
    graph.add_node("tune", train.tune)
    graph.add_node("train", train.network)
    graph.add_node("evaluate", evaluate)
    graph.add_node("approve", release.approve)
    graph.add_node("deploy", release.deploy)
    graph.add_node("monitor", release.monitor)
    graph.add_edge(START, "collect")
    graph.add_edge("collect", "validate")
    graph.add_edge("validate", "features")
    graph.add_edge("validate", "profile")
    graph.add_edge(["features", "profile"], "tune")
    graph.add_edge("tune", "train")
    graph.add_edge("train", "evaluate")
    graph.add_conditional_edges("evaluate", gate, ["approve", "tune", END])
    graph.add_conditional_edges("approve", decided, ["deploy", END])
    graph.add_edge("deploy", "monitor")
    graph.add_edge("monitor", END)
    return graph


def gate(state: State) -> str:
    """Where to go with a model: on, back with other hyperparameters, or nowhere."""
    return {"passed": "approve", "again": "tune", "rejected": END}[state["verdict"]]


def decided(state: State) -> str:
    """Whether it is deployed."""
    return "deploy" if state["decision"]["approve"] else END
