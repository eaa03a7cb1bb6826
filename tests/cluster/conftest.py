"""The fixtures `stack` and `bench` come from `tests.stack`, one stack for all levels that need it."""

from tests.stack import Stack, wait_until

__all__ = ["Stack", "wait_until"]
