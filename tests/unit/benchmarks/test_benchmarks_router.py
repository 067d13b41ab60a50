"""How the router's answers are split into its own time and that of others, and what is asked."""

import json
import tomllib
from pathlib import Path

import pytest

from benchmarks.router import goals
from benchmarks.router_figures import Asked, Overlapping, by_stage, own, spread, told
from benchmarks.router_latency import ENTAILMENT, STACKS, domain, questions
from benchmarks.router_overhead import LOADS, TIMED, waited_s
from benchmarks.router_peers import ANSWER, MEAN_LOGPROB, Waits, passages
from benchmarks.sections import Line

STAGES = {"rewrite": 0.001, "audit": 0.004, "embed": 0.01, "generate.rag": 0.05, "ground": 0.002}


def asked(seconds: float = 0.075, **timings: float) -> Asked:
    return Asked(seconds=seconds, first_s=0.03, timings={**STAGES, "total": 0.07, **timings})


def test_own_time_is_what_no_stage_took() -> None:
    found = own(asked())
    assert found.between == pytest.approx(0.003)
    assert found.around == pytest.approx(0.005)
    assert found.outside == pytest.approx(0.008)


def test_what_is_added_has_the_stages_that_ask_no_peer() -> None:
    assert own(asked()).added == pytest.approx(0.075 - 0.01 - 0.05)


def test_the_parts_and_the_peers_make_up_what_the_caller_waited() -> None:
    answer = asked()
    waited = sum(seconds for name, seconds in answer.stages.items() if name in ("embed", "generate.rag"))
    assert own(answer).added + waited == pytest.approx(answer.seconds)


def test_stages_that_overlap_are_refused() -> None:
    with pytest.raises(Overlapping, match=r"search.* 20\.00 ms more than the total"):
        own(asked(search=0.023))


def test_rounding_to_microseconds_is_no_overlap() -> None:
    assert own(asked(search=0.003002)).between == 0.0


def test_without_grounding_is_the_answer_less_that_stage() -> None:
    assert asked().ungrounded_s == pytest.approx(0.073)


def test_a_stage_is_summed_up_over_the_answers_that_had_it() -> None:
    found = by_stage([asked(), asked(search=0.02), asked(search=0.04)])
    assert list(found) == [*STAGES, "search"]
    assert found["search"].num == 2
    assert found["search"].p50 == pytest.approx(30)
    assert found["audit"].num == 3


@pytest.mark.parametrize(("value", "text"), [(1.2345, "1.23"), (12.345, "12.3"), (123.45, "123")])
def test_milliseconds_are_told_with_three_figures(value: float, text: str) -> None:
    assert told(value) == text


def test_nothing_measured_is_a_dash() -> None:
    assert str(spread([])) == "-"
    assert str(spread([0.001, 0.003])) == "2.00 / 2.90 / 2.98"


def test_questions_come_so_fast_that_sixteen_answers_wait() -> None:
    (load,) = (one for one in LOADS if one.waits == TIMED)
    text = len(ANSWER) * 0.03
    for policy, waited in {"finetuned": text, "rag": text + 0.028, "cascade": 2 * text + 0.028}.items():
        assert waited_s(policy, TIMED) == pytest.approx(waited)
        assert load.rate(policy) == pytest.approx(16 / waited)


def test_instant_peers_are_asked_in_a_loop() -> None:
    assert [load.rate("rag") for load in LOADS if load.waits == Waits()] == [None, None]


def test_the_passages_hold_the_answer_and_may_be_cited() -> None:
    found = passages()
    assert "fourteen days" in found[0].text
    assert "fourteen days" in "".join(ANSWER)
    assert all(len(passage.text) == passage.span.end for passage in found)
    assert MEAN_LOGPROB < -0.06  # under the cascade's threshold of 0.95, so that it escalates


def test_the_questions_are_the_first_of_the_tenant_and_the_label(tmp_path: Path) -> None:
    rows = [("halden", "static"), ("halden", "follow_up"), ("brightwater", "static"), *[("halden", "static")] * 7]
    path = tmp_path / "test.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"question": f"q{at}", "tenant": tenant, "label": label})
            for at, (tenant, label) in enumerate(rows)
        )
    )
    assert questions(path, 3) == (["q0", "q3", "q4"], ["q5", "q6", "q7", "q8", "q9"])
    with pytest.raises(ValueError, match="holds 8 questions"):
        questions(path, 4)


def test_every_arm_has_a_domain_that_withholds_nothing() -> None:
    for arm in (arm for arms in STACKS for arm in arms):
        read = tomllib.loads(domain(arm))
        assert (read["policy"], read["depth"]) == (arm.policy, arm.depth)
        assert read["abstention"] == {"min_groundedness": 0.0, "below": "tell"}
    assert "entailment" in ENTAILMENT


def test_a_goal_that_is_missed_says_so() -> None:
    rows = goals([Line("rag, sixteen", 4.9, 5.0), Line("evidence", 512.34, 500.0, detail="ms at p95")])
    assert rows[2] == "| rag, sixteen | 4.9 | at most 5 | yes |  |"
    assert rows[3] == "| evidence | 512.3 | at most 500 | no | ms at p95 |"
