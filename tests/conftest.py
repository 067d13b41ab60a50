"""What all tests share: a wide terminal, and quiet, repeatable property tests."""

import os

from hypothesis import HealthCheck, settings

# A terminal's width is read once, by whichever test comes first.
os.environ["COLUMNS"] = "200"

# The machines that run this are shared: no test may depend on how fast they are.
settings.register_profile(
    "shared", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("shared")
