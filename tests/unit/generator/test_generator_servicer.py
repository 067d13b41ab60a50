"""The servicer: what it takes for faulty, what it asks the backend for, and that no pin is ever left behind."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from services.generator.domain import Feature, GenerateInput, Message, Mixing, Priority, ScoreInput
from services.generator.metrics import GeneratorMetrics
from services.generator.registry import Registry
from services.generator.servicer import GeneratorServicer, Parts
from tandem.errors import FailedPrecondition, InvalidInput, NotFound, Overloaded, PermissionDenied, TandemError
from tandem.rpc import call
from tandem.security import Principal
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_adapters import FakeAdapters, place
from tests.fakes.generator_backend import FakeBackend
from tests.fakes.generator_registry import CHECK

ALICE = Principal("alice", "halden", roles=frozenset({"user"}))
OLGA = Principal("olga", "halden", roles=frozenset({"operator"}))
TEXT_LIMIT = 65_536
MILLION = 2**20


@dataclass
class Bench:
    servicer: GeneratorServicer
    backend: FakeBackend
    registry: Registry
    folder: Path

    async def call(self, request: Any, principal: Principal = ALICE, *, left_s: float | None = None) -> Any:
        method = getattr(self.servicer, type(request).__name__.removesuffix("Request"))
        deadline = None if left_s is None else time.monotonic() + left_s
        with call.bind(principal=principal, deadline=deadline):
            outcome = method(request, cast(Any, None))
            if hasattr(outcome, "__aiter__"):
                return [event async for event in outcome]
            return await outcome

    async def refusal(self, request: Any, principal: Principal = ALICE) -> TandemError:
        with pytest.raises(TandemError) as caught:
            await self.call(request, principal)
        return caught.value

    def asked(self) -> GenerateInput:
        request = self.backend.requests[-1]
        assert isinstance(request, GenerateInput)
        return request

    def num_pins(self) -> int:
        return sum(shown.num_sequences for shown in self.registry.visible("halden"))


@asynccontextmanager
async def bench(tmp_path: Path, **backend: Any) -> AsyncIterator[Bench]:
    for name in ("answers", "reading"):
        place(tmp_path, name=name)
    place(tmp_path, tenant="_shared", name="style")
    registry = Registry(
        adapters=FakeAdapters(),
        check=CHECK,
        folder=tmp_path,
        max_adapters=8,
        metrics=GeneratorMetrics(CollectorRegistry()),
    )
    await registry.start()
    servicer, fake = GeneratorServicer(), FakeBackend(**backend)
    servicer.adopt(Parts(backend=fake, registry=registry, kind="torch"))
    made = Bench(servicer, fake, registry, tmp_path)
    yield made
    assert made.num_pins() == 0
    await registry.stop()


def said(*turns: tuple[str, str]) -> pb.ChatPrompt:
    return pb.ChatPrompt(messages=[pb.ChatMessage(role=role, content=content) for role, content in turns])


def text(**fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(text="hello", **fields)


def sampled(**fields: Any) -> pb.GenerateRequest:
    return text(sampling=pb.Sampling(**fields))


def biased(*pairs: tuple[int, float]) -> pb.GenerateRequest:
    return sampled(logit_bias=[pb.LogitBias(token_id=token, bias=bias) for token, bias in pairs])


def blended(*weights: float, mixing: int = 0, **fields: Any) -> pb.GenerateRequest:
    prompts = [pb.BlendPrompt(text=f"prompt {index}", weight=weight) for index, weight in enumerate(weights)]
    return pb.GenerateRequest(blend=pb.Blend(prompts=prompts, mixing=cast(Any, mixing)), **fields)


def long_chat(total: int) -> pb.ChatPrompt:
    turns = [("user", "x" * TEXT_LIMIT)] * (total // TEXT_LIMIT)
    return said(*turns, *([("user", "x" * (total % TEXT_LIMIT))] if total % TEXT_LIMIT else []))


FAULTS: list[tuple[pb.GenerateRequest, list[str]]] = [
    (pb.GenerateRequest(), ["prompt"]),
    (pb.GenerateRequest(text=""), ["text"]),
    (pb.GenerateRequest(text="x" * (TEXT_LIMIT + 1)), ["text"]),
    (pb.GenerateRequest(chat=pb.ChatPrompt()), ["chat.messages"]),
    (pb.GenerateRequest(chat=said(*[("user", "a")] * 65)), ["chat.messages"]),
    (pb.GenerateRequest(chat=said(("user", "a"), ("system", "b"), ("user", "c"))), ["chat.messages[1].role"]),
    (
        pb.GenerateRequest(chat=said(("robot", "a"), ("user", ""))),
        ["chat.messages[0].role", "chat.messages[1].content"],
    ),
    (pb.GenerateRequest(chat=said(("user", "a"), ("assistant", "b"))), ["chat.messages"]),
    (pb.GenerateRequest(chat=long_chat(MILLION + 1)), ["chat.messages"]),
    (text(adapter="x" * 1025), ["adapter"]),
    (sampled(max_tokens=0), ["sampling.max_tokens"]),
    (sampled(max_tokens=4097), ["sampling.max_tokens"]),
    (sampled(temperature=math.nan), ["sampling.temperature"]),
    (sampled(temperature=-0.1, top_p=0.0), ["sampling.temperature", "sampling.top_p"]),
    (sampled(temperature=2.1), ["sampling.temperature"]),
    (sampled(top_p=1.1), ["sampling.top_p"]),
    (sampled(top_k=-1), ["sampling.top_k"]),
    (sampled(top_k=1001), ["sampling.top_k"]),
    (sampled(min_p=math.nan), ["sampling.min_p"]),
    (sampled(min_p=1.5), ["sampling.min_p"]),
    (sampled(repetition_penalty=math.inf), ["sampling.repetition_penalty"]),
    (sampled(repetition_penalty=0.4), ["sampling.repetition_penalty"]),
    (sampled(stop=["x"] * 9), ["sampling.stop"]),
    (sampled(stop=["ok", "", "x" * 65]), ["sampling.stop[1]", "sampling.stop[2]"]),
    (biased((1, 1.0), (1, 2.0)), ["sampling.logit_bias[1].token_id"]),
    (biased((-1, 1.0), (100, 1.0)), ["sampling.logit_bias[0].token_id", "sampling.logit_bias[1].token_id"]),
    (biased((1, math.nan), (2, 101.0)), ["sampling.logit_bias[0].bias", "sampling.logit_bias[1].bias"]),
    (biased(*[(1, 1.0)] * 301), ["sampling.logit_bias"]),
    (text(priority=cast(Any, 7)), ["priority"]),
    (text(num_alternatives=21, include_token_logprobs=True), ["num_alternatives"]),
    (text(num_alternatives=-1), ["num_alternatives"]),
    (text(num_alternatives=1), ["num_alternatives"]),
    (blended(1.0), ["blend.prompts"]),
    (blended(*[1.0] * 17), ["blend.prompts"]),
    (blended(1.0, 1.0, adapter="answers"), ["adapter"]),
    (blended(1.0, 1.0, mixing=9), ["blend.mixing"]),
    (blended(1.0, math.nan), ["blend.prompts[1].weight"]),
    (blended(math.inf, 10.5), ["blend.prompts[0].weight", "blend.prompts[1].weight"]),
    (blended(1.0, 0.0), ["blend.prompts[1].weight"]),
    (blended(1.0, -1.0), ["blend.prompts[1].weight"]),
    (blended(1.0, 0.0, mixing=pb.MIXING_LOGARITHMIC), ["blend.prompts[1].weight"]),
    (
        pb.GenerateRequest(blend=pb.Blend(prompts=[pb.BlendPrompt(weight=1), pb.BlendPrompt(text="", weight=1)])),
        ["blend.prompts[0].prompt", "blend.prompts[1].text"],
    ),
    (
        pb.GenerateRequest(
            blend=pb.Blend(
                prompts=[pb.BlendPrompt(chat=said(("system", "a")), weight=1, adapter="x" * 1025), pb.BlendPrompt()]
            )
        ),
        [
            "blend.prompts[0].adapter",
            "blend.prompts[0].chat.messages",
            "blend.prompts[1].prompt",
            "blend.prompts[1].weight",
        ],
    ),
    (
        pb.GenerateRequest(blend=pb.Blend(prompts=[pb.BlendPrompt(chat=long_chat(MILLION - 9), weight=1)] * 2)),
        ["blend.prompts"],
    ),
]


@pytest.mark.parametrize(("request_", "fields"), FAULTS, ids=[",".join(fields) for _, fields in FAULTS])
async def test_every_faulty_field_of_a_sequence_is_named(
    tmp_path: Path, request_: pb.GenerateRequest, fields: list[str]
) -> None:
    async with bench(tmp_path) as made:
        for wrapped, within in (
            (request_, ""),
            (pb.StreamGenerateRequest(request=request_), "request."),
            (pb.SampleRequest(request=request_), "request."),
        ):
            error = await made.refusal(wrapped)
            assert isinstance(error, InvalidInput)
            assert [violation.field for violation in error.violations] == [within + field for field in fields]
        assert made.backend.requests == []


def item(text: str = "a", continuation: str = "b") -> pb.ScoreItem:
    return pb.ScoreItem(text=text, continuation=continuation)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.ScoreRequest(), ["items"]),
        (pb.ScoreRequest(items=[item()] * 257), ["items"]),
        (
            pb.ScoreRequest(
                items=[item("", ""), pb.ScoreItem(continuation="x" * (TEXT_LIMIT + 1))], adapter="x" * 1025
            ),
            ["adapter", "items[0].text", "items[0].continuation", "items[1].prompt", "items[1].continuation"],
        ),
        (pb.ScoreRequest(items=[item("x" * TEXT_LIMIT, "y" * TEXT_LIMIT)] * 9), ["items"]),
        (pb.ScoreRequest(items=[item()], priority=cast(Any, -1)), ["priority"]),
        (pb.SampleRequest(request=sampled(temperature=0.0)), ["request.sampling.temperature"]),
        (pb.SampleRequest(request=text(), num_samples=1), ["num_samples"]),
        (pb.SampleRequest(request=text(), num_samples=17), ["num_samples"]),
        (pb.SampleRequest(num_samples=-1), ["request.prompt", "num_samples"]),
    ],
)
async def test_every_faulty_field_of_scores_and_samples_is_named(
    tmp_path: Path, request_: Any, fields: list[str]
) -> None:
    async with bench(tmp_path) as made:
        error = await made.refusal(request_)
        assert isinstance(error, InvalidInput)
        assert [violation.field for violation in error.violations] == fields


async def test_what_is_unset_has_its_documented_default(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        await made.call(text())
        asked = made.asked()
        sampling = asked.sampling
        assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (128, 0.0, 1.0, 0)
        assert (sampling.min_p, sampling.seed, sampling.stop, sampling.logit_bias) == (0.0, None, (), ())
        assert sampling.repetition_penalty == 1.0
        assert (asked.tenant, asked.priority, asked.num_alternatives) == ("halden", Priority.INTERACTIVE, 0)
        assert asked.deadline is None
        assert [(stream.prompt, stream.pin, stream.weight) for stream in asked.streams] == [("hello", None, 1.0)]


async def test_what_is_set_reaches_the_backend(tmp_path: Path) -> None:
    sampling = pb.Sampling(
        max_tokens=7, temperature=0.5, top_p=0.5, top_k=3, seed=-9, stop=["x"], repetition_penalty=2, min_p=0.25,
        logit_bias=[pb.LogitBias(token_id=99, bias=-100)],
    )  # fmt: skip
    request = pb.GenerateRequest(
        chat=said(("system", "be brief"), ("user", "hi")), adapter="answers", sampling=sampling,
        include_token_logprobs=True, num_alternatives=20, priority=pb.PRIORITY_BATCH,
    )  # fmt: skip
    async with bench(tmp_path) as made:
        before = time.monotonic()
        await made.call(request, left_s=50)
        asked = made.asked()
        assert asked.deadline is not None
        assert before + 49 < asked.deadline < before + 60
        wanted = (7, 0.5, 0.5, 3, -9, ("x",), 2.0, 0.25, ((99, -100.0),))
        given = asked.sampling
        assert wanted == (
            given.max_tokens, given.temperature, given.top_p, given.top_k, given.seed, given.stop,
            given.repetition_penalty, given.min_p, given.logit_bias,
        )  # fmt: skip
        assert (asked.num_alternatives, asked.priority) == (20, Priority.BATCH)
        assert asked.streams[0].prompt == (Message("system", "be brief"), Message("user", "hi"))
        assert [pin.adapter.name for pin in asked.pins] == ["answers"]


async def test_a_blend_has_its_weights_scaled_only_where_probabilities_are_averaged(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        await made.call(blended(1.0, 3.0))
        assert (made.asked().mixing, [s.weight for s in made.asked().streams]) == (Mixing.ARITHMETIC, [0.25, 0.75])
        await made.call(blended(5e-324, 5e-324))
        assert [s.weight for s in made.asked().streams] == [0.5, 0.5]
        await made.call(blended(1.5, -0.5, mixing=pb.MIXING_LOGARITHMIC))
        assert (made.asked().mixing, [s.weight for s in made.asked().streams]) == (Mixing.LOGARITHMIC, [1.5, -0.5])


async def test_the_prompts_of_a_blend_run_on_their_own_adapters_and_count_as_one_sequence(tmp_path: Path) -> None:
    prompts = [
        pb.BlendPrompt(text="a", adapter="answers", weight=1),
        pb.BlendPrompt(text="b", adapter="answers", weight=1),
        pb.BlendPrompt(text="c", adapter="style", weight=1),
        pb.BlendPrompt(text="d", weight=1),
    ]
    async with bench(tmp_path, hold=True) as made:
        running = asyncio.create_task(made.call(pb.GenerateRequest(blend=pb.Blend(prompts=prompts))))
        await made.backend.started.wait()
        pins = [stream.pin for stream in made.asked().streams]
        assert [pin and (pin.adapter.tenant, pin.adapter.name) for pin in pins] == [
            ("halden", "answers"), ("halden", "answers"), ("_shared", "style"), None,
        ]  # fmt: skip
        page = await made.call(pb.ListAdaptersRequest())
        assert {row.name: row.num_sequences for row in page.adapters} == {"answers": 1, "reading": 0, "style": 1}
        made.backend.proceed.set()
        response = await running
        assert [cost.lineage.adapter for cost in response.finished.streams] == ["answers", "answers", "style", ""]


async def test_what_the_backend_tells_is_told_on(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        request = text(include_token_logprobs=True, num_alternatives=2, adapter="answers")
        response = await made.call(request)
        assert response.text == "one two!"
        assert [token.token for token in response.tokens] == ["one", "two"]
        assert [other.token for other in response.tokens[0].alternatives] == ["t0", "t1"]
        assert response.tokens[0].entropy == 0.25
        finished = response.finished
        assert (finished.finish_reason, finished.mean_logprob, finished.min_logprob) == (1, -0.5, -1.0)
        assert (finished.mean_entropy, finished.max_entropy) == (0.25, 0.5)
        assert not finished.HasField("mean_margin")
        assert not finished.HasField("min_margin")
        usage = finished.usage
        assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.computed_tokens) == (3, 2, 1, 9)
        assert [(t.stage, t.duration.ToMilliseconds()) for t in finished.timings] == [
            ("queue", 100), ("prefill", 200), ("decode", 300),
        ]  # fmt: skip
        assert finished.lineage.adapter_sha256 == made.registry.find("answers", tenant="halden").sha256
        events = await made.call(pb.StreamGenerateRequest(request=text()))
        assert [event.WhichOneof("event") for event in events] == ["started", "delta", "delta", "delta", "finished"]
        assert "".join(event.delta.text for event in events) == "one two!"
        assert not any(event.delta.tokens for event in events)


async def test_scores_are_told_in_order_and_wait_behind_people_unless_told_otherwise(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        request = pb.ScoreRequest(items=[item(), item(continuation="c d")], adapter="reading")
        response = await made.call(request)
        assert [(s.sum_logprob, s.num_tokens, s.greedy, len(s.tokens)) for s in response.scores] == [
            (-0.5, 1, True, 0), (-1.0, 2, True, 0),
        ]  # fmt: skip
        assert (response.usage.input_tokens, response.lineage.adapter) == (7, "reading")
        asked = made.backend.requests[-1]
        assert isinstance(asked, ScoreInput)
        assert (asked.priority, asked.tenant) == (Priority.BATCH, "halden")
        request.priority, request.include_token_logprobs = pb.PRIORITY_INTERACTIVE, True
        response = await made.call(request)
        assert [token.token for token in response.scores[1].tokens] == ["c", "d"]
        asked = made.backend.requests[-1]
        assert asked.priority is Priority.INTERACTIVE


async def test_samples_differ_by_their_seeds_alone(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        await made.call(pb.SampleRequest(request=sampled(seed=2**63 - 1, temperature=0.5), num_samples=3))
        drawn = [request for request in made.backend.requests if isinstance(request, GenerateInput)]
        assert sorted(r.sampling.seed for r in drawn if r.sampling.seed is not None) == [0, 1, 2**63 - 1]
        assert {r.sampling.temperature for r in drawn} == {0.5}
        made.backend.requests.clear()
        await made.call(pb.SampleRequest(request=text(num_alternatives=3, include_token_logprobs=True)))
        drawn = [request for request in made.backend.requests if isinstance(request, GenerateInput)]
        assert [(r.sampling.seed, r.sampling.temperature, r.num_alternatives) for r in drawn] == [(None, 1.0, 0)] * 5


async def test_samples_tell_which_answers_say_the_same(tmp_path: Path) -> None:
    replies = iter(["Paris.", "the Paris", "Rome", "Paris"])
    async with bench(tmp_path, reply=lambda request: next(replies)) as made:
        response = await made.call(pb.SampleRequest(request=text(adapter="answers"), num_samples=4))
        assert (response.num_clusters, len(response.samples)) == (2, 4)
        assert sorted(sample.cluster for sample in response.samples) == [0, 0, 0, 1]
        assert response.semantic_entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
        assert response.lineage.adapter == "answers"
        assert response.usage.output_tokens == sum(len(sample.text.split()) for sample in response.samples)


def holding_adapters() -> Iterable[Any]:
    request = text(adapter="answers")
    yield request
    yield pb.StreamGenerateRequest(request=request)
    yield pb.ScoreRequest(items=[item()], adapter="answers")
    yield pb.SampleRequest(request=request)


@pytest.mark.parametrize("request_", list(holding_adapters()), ids=lambda request: type(request).__name__)
async def test_no_pin_is_left_however_a_call_ends(tmp_path: Path, request_: Any) -> None:
    """`bench` checks the pins at its end."""
    async with bench(tmp_path, fail=Overloaded("full", retry_after_s=1)) as made:
        await made.refusal(request_)
    # However early a caller leaves: at every turn of the loop from the call to the held sequence.
    for turns in range(8):
        async with bench(tmp_path, hold=True) as made:
            leaving = asyncio.create_task(made.call(request_))
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)


async def test_no_pin_is_left_when_a_later_adapter_is_not_found(tmp_path: Path) -> None:
    prompts = [pb.BlendPrompt(text="a", adapter=name, weight=1) for name in ("answers", "style", "nothing", "reading")]
    blend = pb.GenerateRequest(blend=pb.Blend(prompts=prompts))
    async with bench(tmp_path) as made:
        for request in (blend, pb.StreamGenerateRequest(request=blend), pb.SampleRequest(request=blend)):
            assert isinstance(await made.refusal(request), NotFound)
            assert made.num_pins() == 0
        assert made.backend.requests == []


async def test_adapters_are_loaded_and_unloaded_by_an_operator_of_their_tenant(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        before = made.registry.find("answers", tenant="halden")
        place(tmp_path, fill=7)
        loaded = await made.call(pb.LoadAdapterRequest(name="answers"), OLGA)
        assert loaded.replaced_sha256 == before.sha256
        assert loaded.adapter.sha256 == made.registry.find("answers", tenant="halden").sha256 != before.sha256
        again = await made.call(pb.LoadAdapterRequest(name="answers"), OLGA)
        assert again.replaced_sha256 == again.adapter.sha256
        place(tmp_path, name="fresh")
        assert (await made.call(pb.LoadAdapterRequest(name="fresh"), OLGA)).replaced_sha256 == ""
        await made.call(pb.UnloadAdapterRequest(name="answers"), OLGA)
        listed = await made.call(pb.ListAdaptersRequest(), OLGA)
        assert [row.name for row in listed.adapters] == ["fresh", "reading", "style"]
        for request in (pb.LoadAdapterRequest(name="fresh"), pb.UnloadAdapterRequest(name="fresh")):
            assert isinstance(await made.refusal(request), PermissionDenied)
        stranger = Principal("x", "brightwater", roles=frozenset({"operator"}))
        for name in ("fresh", "../halden/fresh", "style", ""):
            for request in (pb.LoadAdapterRequest(name=name), pb.UnloadAdapterRequest(name=name)):
                assert isinstance(await made.refusal(request, stranger), NotFound)


async def test_a_role_is_needed_for_each_method(tmp_path: Path) -> None:
    auditor = Principal("otto", "halden", roles=frozenset({"auditor"}))
    async with bench(tmp_path) as made:
        for method in pb.DESCRIPTOR.services_by_name["GeneratorService"].methods:
            request = getattr(pb, method.input_type.name)()
            assert isinstance(await made.refusal(request, auditor), PermissionDenied), method.name


async def test_a_backend_without_adapters_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path, features=frozenset({Feature.SCORING})) as made:
        for request, principal in (
            (text(adapter="answers"), ALICE),
            (pb.LoadAdapterRequest(name="answers"), OLGA),
            (pb.UnloadAdapterRequest(name="answers"), OLGA),
        ):
            error = await made.refusal(request, principal)
            assert isinstance(error, FailedPrecondition)
            assert error.reason == "UNSUPPORTED_BY_BACKEND"
        model = await made.call(pb.GetModelRequest())
        assert (model.backend, list(model.features)) == ("torch", ["scoring"])
