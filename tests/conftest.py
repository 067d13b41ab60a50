"""What all tests share: quiet, repeatable property tests, and which of them belong to one worker."""

import os

import pytest
from hypothesis import HealthCheck, settings

# A terminal's width is read once, by whichever test comes first.
os.environ["COLUMNS"] = "200"

# The machines that run this are shared: no test may depend on how fast they are.
settings.register_profile(
    "shared", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps a file's tests together, for they share models and servers, and those of a store as well."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("store" if item.path.parent.name == "store" else str(item.path)))
