"""Long campaigns: `make chaos`, or `pytest tests/chaos --chaos=long`; the suite runs the short form."""

import pytest


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many processes a campaign kills."""
    return 200 if request.config.getoption("--chaos") == "long" else 4


@pytest.fixture
def programs(request: pytest.FixtureRequest) -> int:
    """How many random programs of commands a campaign runs."""
    return 150 if request.config.getoption("--chaos") == "long" else 1
