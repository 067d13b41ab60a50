"""What all tests share: quiet, repeatable property tests."""

from hypothesis import HealthCheck, settings

# The machines that run this are shared: no test may depend on how fast they are.
settings.register_profile(
    "shared", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("shared")
