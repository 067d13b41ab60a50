"""Callers of the backend openai who wait for the server or in the queue, leave, or run out of time."""

import asyncio

import pytest

from services.generator.domain import Started
from tandem.errors import DeadlineExceeded, Overloaded, Unavailable
from tests.fakes.generator_openai import connected, events, request, text
from tests.fakes.openai_server import Answer, OpenAiServer, end, word


async def test_a_silent_server_is_left_at_the_deadline():
    server = OpenAiServer()
    server.answers.append(Answer((word("a"),), hold=True))
    async with connected(server) as backend:
        with pytest.raises(DeadlineExceeded):
            await events(backend, request(deadline_s=0.3))
        await asyncio.wait_for(server.left.wait(), 10)


async def test_a_caller_who_leaves_closes_the_connection():
    server = OpenAiServer()
    server.answers.append(Answer((word("a"),), hold=True))
    async with connected(server) as backend:
        told = backend.generate(request())
        assert isinstance(await anext(told), Started)
        await told.aclose()
        await asyncio.wait_for(server.left.wait(), 10)


async def test_a_cancelled_task_closes_the_connection():
    server = OpenAiServer()
    server.answers.append(Answer(hold=True))
    async with connected(server) as backend:
        task = asyncio.create_task(events(backend, request()))
        await server.reached(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 10)


async def test_stop_ends_what_waits_for_the_server():
    server = OpenAiServer()
    server.answers.append(Answer(hold=True))
    async with connected(server, max_running=1) as backend:
        running = [asyncio.create_task(events(backend, request())) for _ in range(2)]
        await server.reached(2)
        await backend.stop()
        for task in running:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(task, 10)
        with pytest.raises(Unavailable):
            await events(backend, request())


async def test_no_more_than_max_running_are_at_the_server_and_a_full_queue_refuses():
    server = OpenAiServer()
    server.answers.extend([Answer((word("a"), end()), hold=True)] * 4)
    async with connected(server, max_running=2, max_waiting=2) as backend:
        tasks = [asyncio.create_task(events(backend, request())) for _ in range(4)]
        await server.reached(3)
        with pytest.raises(Overloaded) as caught:
            await events(backend, request())
        assert caught.value.retry_after_s > 0
        server.proceed.set()
        assert [text(await task) for task in tasks] == ["a"] * 4
    assert server.max_open == 2


async def test_a_deadline_passes_in_the_queue_too():
    server = OpenAiServer()
    server.answers.append(Answer((word("a"), end()), hold=True))
    async with connected(server, max_running=1) as backend:
        first = asyncio.create_task(events(backend, request()))
        await server.reached(2)
        with pytest.raises(DeadlineExceeded):
            await events(backend, request(deadline_s=0.1))
        server.proceed.set()
        assert text(await first) == "a"
