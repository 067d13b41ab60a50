"""Who may wait, and who is told to come back."""

import pytest

from services.generator.engine.door import Door
from tandem.errors import Overloaded


def test_a_flood_of_one_tenant_leaves_places_for_the_others() -> None:
    door = Door(max_waiting=8, max_running=1)
    for _ in range(6):
        door.enter("loud")
    with pytest.raises(Overloaded):
        door.enter("loud")
    door.enter("quiet")
    with pytest.raises(Overloaded):
        door.enter("quiet")
    door.enter("third")
    with pytest.raises(Overloaded):
        door.enter("fourth")
    assert door.waiting == 8


def test_a_tenant_whose_calls_have_left_comes_in_like_a_new_one() -> None:
    door = Door(max_waiting=4, max_running=1)
    for tenant in ("a", "a", "b", "c"):
        door.enter(tenant)
    door.leave("b")
    with pytest.raises(Overloaded):
        door.enter("a")
    door.enter("b")
    assert door.waiting == 4


def test_the_longer_calls_take_the_later_the_next_should_come_back() -> None:
    waits = []
    for seconds in (0.1, 3.0, 500.0):
        door = Door(max_waiting=1, max_running=1)
        door.enter("a")
        for _ in range(20):
            door.observe(seconds)
        with pytest.raises(Overloaded) as refused:
            door.enter("b")
        waits.append(refused.value.retry_after_s)
    assert waits == sorted(waits)
    assert waits[0] is not None
    assert waits[0] >= 0.2
    assert waits[-1] == 60.0
