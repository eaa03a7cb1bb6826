"""How a run of the pipeline is judged: by the test part, which neither training nor gate has seen."""

from wtb_ray.scoring import CellOutcome, scorer


@scorer(metrics=["accuracy", "macro_f1", "reached", "deployed"])
async def quality(result: CellOutcome) -> dict[str, float]:
    """Accuracy and F1 of the last model, whether the accuracy is the one expected, and whether it
    got through the gate and into production.

    Range: 0 to 1.
    """
    metrics = result.state["metrics"]
    return {
        "accuracy": metrics["test"],
        "macro_f1": metrics["macro_f1"],
        "reached": metrics["test"] >= result.case.expected["accuracy"],
        "deployed": "deployed" in result.state,
    }
