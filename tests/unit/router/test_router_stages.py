"""The times of an answer's stages."""

from opentelemetry.trace import NoOpTracer

from services.router.engine.budget import Budget
from services.router.engine.stages import Stages


def test_the_total_has_the_stage_that_ended_before_the_first():
    stages = Stages(Budget(30.0), NoOpTracer())
    stages.before("rewrite", 5.0)
    stages.note("audit", 2.0)
    stages.note("audit", 1.0)
    rewrite, audit, total = stages.timings()
    assert (rewrite.stage, rewrite.seconds) == ("rewrite", 5.0)
    assert (audit.stage, audit.seconds) == ("audit", 3.0)
    assert total.stage == "total"
    assert total.seconds >= 5.0
