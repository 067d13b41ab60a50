"""The closed loop: who is sent when, and what is noted of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from benchmarks.peers.protocol import Piece, Prompt, closed_loop

PROMPTS = [Prompt(str(number), [number]) for number in range(7)]


async def echo(prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
    for _ in range(max_tokens):
        await asyncio.sleep(0)
        yield Piece(1, prompt.text)


async def test_every_prompt_is_sent_once_and_answered_in_its_place() -> None:
    results = await closed_loop(echo, PROMPTS, concurrency=3, max_tokens=4)
    assert [result.text for result in results] == [prompt.text * 4 for prompt in PROMPTS]
    assert all(result.tokens == len(result.times) == 4 for result in results)


@pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (3, 3), (20, 7)])
async def test_as_many_run_at_once_as_asked_for_and_no_more(concurrency: int, most: int) -> None:
    running, peak = 0, 0

    async def counted(prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        async for piece in echo(prompt, max_tokens):
            yield piece
        running -= 1

    await closed_loop(counted, PROMPTS, concurrency=concurrency, max_tokens=3)
    assert (running, peak) == (0, most)


async def test_what_is_told_afterwards_counts_and_has_no_time() -> None:
    async def late(prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        yield Piece(0, "a")
        yield Piece(0, "b")
        yield Piece(max_tokens, late=True)

    (result,) = await closed_loop(late, PROMPTS[:1], concurrency=1, max_tokens=9)
    assert (result.tokens, result.text, len(result.times)) == (9, "ab", 2)
    assert result.submitted <= result.times[0] <= result.times[1]


async def test_a_call_that_fails_ends_the_load() -> None:
    async def broken(prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        if prompt.text == "2":
            raise ConnectionError("gone")
        yield Piece(1)

    with pytest.raises(ExceptionGroup) as caught:
        await closed_loop(broken, PROMPTS, concurrency=2, max_tokens=1)
    assert caught.group_contains(ConnectionError)
