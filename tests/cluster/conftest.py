"""What the tests with hosts share."""

from __future__ import annotations

import pytest

from tests.cluster.hosts import why_not


@pytest.fixture(scope="session")
def namespaces():
    """Skips where there can be no hosts, and says why."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
