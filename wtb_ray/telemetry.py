"""Logging of the bench's own processes: one level for all, and the stable `action` beside the prose."""

import logging

from wtb_ray.secret_values import blacked_out

FORMAT = "%(asctime)s %(levelname)s %(name)s [%(action)s] %(message)s"


class _Formatter(logging.Formatter):
    """Writes no secret that this process has asked for."""

    def format(self, record: logging.LogRecord) -> str:
        return blacked_out(super().format(record))


def configure(level: str) -> None:
    """Sends the bench's log lines of this level and above to stderr, where Ray keeps them."""
    logger = logging.getLogger("wtb_ray")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter(FORMAT, defaults={"action": "-"}))
        logger.addHandler(handler)
