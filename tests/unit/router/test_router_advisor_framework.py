"""A framework's file is read whole or refused with the place of its fault."""

from pathlib import Path

import pytest

from services.router.advisor import Advisor, FrameworkFault, draw, read
from services.router.advisor.reading import SHIPPED
from services.router.domain.advice import Approach, Factor
from tests.fakes.advice import profile

TEXT = SHIPPED.read_text()


def test_the_shipped_framework_is_a_tree_over_seven_factors() -> None:
    framework = read()
    assert [voter.factor for voter in framework.voters] == list(Factor)
    nodes = list(framework.below(framework.root))
    assert sorted(nodes) == sorted([*framework.questions, *framework.leaves])
    assert len(framework.leaves) == len(framework.questions) + 1
    assert {leaf.approach for leaf in framework.leaves.values()} == set(Approach)
    assert framework.latency_steps() == (200.0, 201.0, 499.0, 500.0)


def test_every_threshold_says_where_it_comes_from() -> None:
    framework = read()
    sources = [rule.source for voter in framework.voters for rule in voter.rules]
    sources += [question.source for question in framework.questions.values()]
    assert set(sources) == {"anchor", "default"}
    anchored = {question.id for question in framework.questions.values() if question.source == "anchor"}
    assert {"external", "sources", "volatile", "stable", "volatile-fast"} <= anchored


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weight = 3", "weight = 0", "factors.data_volatility: weight"),
        ("weight = 3", "wait = 3", "misses weight"),
        ('levels = ["monthly"]', 'levels = ["montly"]', "montly: no level of data_volatility"),
        ('levels = ["monthly"]', 'levels = ["weekly"]', "no vote for monthly"),
        ('levels = ["monthly"]', "at_most = 3", "at_most does not fit data_volatility"),
        ("at_most = 200", "at_most = 200\nunder = 300", "one condition at most"),
        ("at_most = 200", "at_most = -1", "0 or more"),
        ('vote = "rag"', 'vote = "both"', '"both" is none of rag, fine-tune, hybrid'),
        ('source = "anchor"\n[[factors.votes]]', 'source = "hearsay"\n[[factors.votes]]', "source must be"),
        ('because = "what was learnt stays true for long"', "because = 1", "because: must be words"),
        ('yes = "rag-external"', 'yes = "rag-eternal"', '"rag-eternal" is neither'),
        ('no = "trainable"', 'no = "sources"', "more than one way|never reached"),
        ('no = "trainable"', 'no = "external"', "more than one way"),
        ('id = "sources"', 'id = "external"', "more than once"),
        ('approach = "rag"\npattern = "rag"', 'approach = "rag"\npattern = "dual"', "rag is carried out by rag"),
        ('factor = "compliance"\nask', "ask", "either a factor or a lead"),
        ("lead = {", 'factor = "budget"\nlead = {', "either a factor or a lead"),
        ('approaches = ["rag"]', 'approaches = ["ragg"]', "ragg are not known"),
        ('figure = "p95"', 'figure = "p99"', "figure must be one of"),
        ("monthly = 1.0\n", "", "trainings_per_month: misses monthly"),
        ("min_answers = 20", 'min_answers = "20"', "evidence: min_answers"),
        ("[workload]", "[worklod]", "the file: misses workload"),
        ("[[factors]]", "[[factors]", "is not TOML"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in TEXT
    file = tmp_path / "framework.toml"
    file.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(FrameworkFault, match=words):
        read(file)


def test_a_factor_that_does_not_vote_is_missed(tmp_path: Path) -> None:
    start, end = (TEXT.index(f'[[factors]]\nname = "{name}"') for name in ("infrastructure_maturity", "explainability"))
    file = tmp_path / "framework.toml"
    file.write_text(TEXT[:start] + TEXT[end:])
    with pytest.raises(FrameworkFault, match=r"must be data_volatility.*each once"):
        read(file)


def test_another_threshold_in_the_file_is_another_advice(tmp_path: Path) -> None:
    file = tmp_path / "framework.toml"
    file.write_text(TEXT.replace("at_most = 200", "at_most = 300"))
    one = profile(data_volatility="monthly", latency_limit_ms=250)
    assert Advisor().advise(one).pattern == "cascade"
    changed = Advisor(read(file))
    assert changed.advise(one).pattern == "dual"
    assert draw(changed.framework, changed.advise(one))
