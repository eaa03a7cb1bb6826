"""Logging of the bench's own processes: one level for all, and the stable `action` beside the prose."""

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s [%(action)s] %(message)s"


def configure(level: str) -> None:
    """Sends the bench's log lines of this level and above to stderr, where Ray keeps them."""
    logger = logging.getLogger("wtb_ray")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT, defaults={"action": "-"}))
        logger.addHandler(handler)
