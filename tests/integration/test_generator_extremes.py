"""Requests that keep to the contract, with values at its edges: each is answered, and none is answered INTERNAL."""

import asyncio
import math
import random
from pathlib import Path
from typing import Any

import grpc

from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_hosting import Running, publish_random, running, tiny
from tests.fakes.generator_model import CONTEXT, write_model

NUM_CALLS = 150
FINE = {"OK", "INVALID_ARGUMENT"}
"""INVALID_ARGUMENT is for prompts and texts that are too long for this model."""
SMALLEST = 2.0**-149
TEXTS = ("a", "\x00", "é", "\u202e", "😀" * 20, "</s>", "<s>assistant\n", "�", " " * 9, "a" * 200, "x" * CONTEXT)
ADAPTERS = ("", "answers", "strong", "nothing")


def prompt(rng: random.Random) -> dict[str, Any]:
    """Returns one prompt, as text or as a conversation."""
    if rng.random() < 0.5:
        return {"text": rng.choice(TEXTS)}
    turns = [{"role": "user", "content": rng.choice(TEXTS[:-1])} for _ in range(rng.choice((1, 1, 2, 5)))]
    return {"chat": {"messages": [{"role": "system", "content": rng.choice(TEXTS[:-2])}, *turns]}}


def sampling(rng: random.Random) -> dict[str, Any]:
    """Returns choices at the edges of their ranges, each of them left out now and then."""
    edges: dict[str, Any] = {
        "max_tokens": rng.choice((1, 2, 30, 4096)),
        "temperature": rng.choice((0.0, SMALLEST, 1e-6, 1.0, 2.0)),
        "top_p": rng.choice((SMALLEST, 1e-6, 0.5, 1.0)),
        "top_k": rng.choice((0, 1, 2, 1000)),
        "min_p": rng.choice((0.0, SMALLEST, 0.5, 1.0)),
        "seed": rng.choice((0, -1, 2**63 - 1, -(2**63))),
        "stop": rng.choice(([], ["a"], ["�"], ["\x00"], ["e", "é" * 64] * 4)),
        "repetition_penalty": rng.choice((0.5, 1.0, 2.0)),
        "logit_bias": rng.choice(
            (
                [],
                [{"token_id": 1, "bias": -100}],
                [{"token_id": 0, "bias": 100}],
                [{"token_id": token, "bias": -100} for token in range(259)],
                [{"token_id": token, "bias": rng.choice((-100, -0.0, SMALLEST, 100))} for token in range(259)],
            )
        ),
    }
    return {name: value for name, value in edges.items() if rng.random() < 0.6}


def weights(rng: random.Random) -> dict[str, Any]:
    """Returns the prompts of a blend with weights that are hard to add up."""
    count = rng.choice((2, 3, 16))
    if rng.random() < 0.5:
        shares = [rng.choice((5e-324, 1e-300, 1.0, 10.0)) for _ in range(count)]
        mixing = pb.MIXING_ARITHMETIC
    else:
        shares = [rng.choice((-10.0, -5e-324, 1e-300, 1.0, 10.0)) for _ in range(count)]
        mixing = pb.MIXING_LOGARITHMIC
    rows = [{**prompt(rng), "weight": share, "adapter": rng.choice(ADAPTERS[:3])} for share in shares]
    return {"blend": {"prompts": rows, "mixing": mixing}}


def request(rng: random.Random) -> Any:
    """Returns a call that breaks no rule of the contract."""
    body = weights(rng) if rng.random() < 0.3 else {**prompt(rng), "adapter": rng.choice(ADAPTERS)}
    body["sampling"] = sampling(rng)
    if rng.random() < 0.5:
        body["include_token_logprobs"] = True
        body["num_alternatives"] = rng.choice((0, 1, 20))
    body["priority"] = rng.choice((0, 1, 2))
    kind = rng.choice(("generate", "stream", "score", "sample"))
    if kind == "stream":
        return pb.StreamGenerateRequest(request=pb.GenerateRequest(**body))
    if kind == "sample":
        if body["sampling"].get("temperature") == 0:
            del body["sampling"]["temperature"]
        return pb.SampleRequest(request=pb.GenerateRequest(**body), num_samples=rng.choice((0, 2, 16)))
    if kind == "score":
        items = [{**prompt(rng), "continuation": rng.choice(TEXTS)} for _ in range(rng.choice((1, 3, 20)))]
        return pb.ScoreRequest(items=items, adapter=rng.choice(ADAPTERS), include_token_logprobs=rng.random() < 0.5)
    return pb.GenerateRequest(**body)


async def answered(started: Running, asked: Any) -> tuple[str, list[Any]]:
    """Returns the status of a call and what it said."""
    method = getattr(started.stub, type(asked).__name__.removesuffix("Request"))
    try:
        if isinstance(asked, pb.StreamGenerateRequest):
            return "OK", [event async for event in method(asked)]
        return "OK", [await method(asked)]
    except grpc.aio.AioRpcError as error:
        return error.code().name, []


def numbers(response: Any) -> list[float]:
    """Returns all floating-point numbers of a message."""
    found: list[float] = []
    for item, value in response.ListFields():
        values = value if item.is_repeated else [value]
        if item.message_type is not None:
            found += [number for inner in values for number in numbers(inner)]
        elif item.cpp_type in (item.CPPTYPE_DOUBLE, item.CPPTYPE_FLOAT):
            found += values
    return found


async def test_calls_at_the_edges_of_the_contract_are_answered(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    publish_random(tmp_path, "halden/answers", seed=1)
    publish_random(tmp_path, "halden/strong", seed=2, scale=1e6)
    rng = random.Random(20261122)
    calls = [request(rng) for _ in range(NUM_CALLS)]
    # Little room for keys and values: some give way and are read again.
    async with running(tiny(tmp_path, kv_cache_tokens=1024, max_waiting=1000)) as started:
        turns = asyncio.Semaphore(24)

        async def play(number: int, asked: Any) -> None:
            async with turns:
                code, said = await answered(started, asked)
            unknown = "nothing" in str(asked) and code == "NOT_FOUND"
            assert code in FINE or unknown, (number, code, asked)
            for response in said:
                assert not any(math.isnan(value) for value in numbers(response)), (number, asked, response)

        async with asyncio.TaskGroup() as group:
            for number, asked in enumerate(calls):
                group.create_task(play(number, asked))
        assert started.metric("sequences_total", reason="failed") == 0
        await started.until("running_sequences", 0)
        listed = await started.stub.ListAdapters(pb.ListAdaptersRequest())
        assert {row.num_sequences for row in listed.adapters} == {0}
