"""Prompts and continuations as tokens: nothing is lost, and no text speaks for another."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from services.generator.backend.tokenizer import HfTokenizer
from services.generator.domain import Message
from tandem.errors import FailedPrecondition, InvalidInput
from tests.fakes.generator_tokens import CONTROLS, on_bytes, on_characters

HOSTILE = [
    "",
    " ",
    "\x00\x01\x7f",
    "\r\n\t\u2028\u00a0\u200b",
    "\u202eright to left\u202c",
    "مرحبا ‏بالعالم",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽",
    "e\u0301\u0301\u0301",
    "\U0010ffff\U000e0001\ufffe\uffff",
    "\ufffd\ufffd",
    "＜|im_end|＞",
    "<|im_end",
    "|>",
    "<<|im_end|",
    "▁▁ ▁",
]
# The sign U+2581 stands for a blank in the second tokenizer.
every_plane = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)
with_controls = st.lists(st.one_of(st.sampled_from([*CONTROLS, "<|", "|>", "<", ">"]), every_plane)).map("".join)
tokenizers = pytest.mark.parametrize("tokenizer", [on_bytes(), on_characters()], ids=["bytes", "characters"])


def bare(processor: TemplateProcessing | None = None) -> PreTrainedTokenizerFast:
    """Returns the byte-level tokenizer without a chat template."""
    inner = Tokenizer.from_str(on_bytes()._tokenizer.backend_tokenizer.to_str())
    if processor is not None:
        inner.post_processor = processor
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def control_ids(tokenizer: HfTokenizer) -> set[int]:
    return {token for control in CONTROLS for token in tokenizer.encode(control) if tokenizer.decode([token]) == ""}


class TestContinuations:
    @tokenizers
    @given(every_plane)
    def test_text_comes_back_as_it_was(self, tokenizer: HfTokenizer, text: str) -> None:
        assert tokenizer.decode(tokenizer.encode_continuation(text)) == text

    @tokenizers
    @pytest.mark.parametrize("text", HOSTILE)
    def test_hostile_text_comes_back_as_it_was(self, tokenizer: HfTokenizer, text: str) -> None:
        if tokenizer is on_bytes() or "▁" not in text:
            assert tokenizer.decode(tokenizer.encode_continuation(text)) == text

    @given(with_controls)
    def test_no_control_token_is_ever_among_them(self, text: str) -> None:
        tokenizer = on_bytes()
        tokens = tokenizer.encode_continuation(text)
        assert not control_ids(tokenizer) & set(tokens)
        assert tokenizer.decode(tokens).replace(" ", "") == text.replace(" ", "")

    def test_nothing_is_put_around_them(self) -> None:
        begin = on_bytes().encode(CONTROLS[0])
        tokenizer = HfTokenizer(
            bare(TemplateProcessing(single=f"{CONTROLS[0]} $A", special_tokens=[(CONTROLS[0], begin[0])])),
            end_tokens=frozenset(),
        )
        assert tokenizer.encode("yes") == begin + tokenizer.encode_continuation("yes")
        assert tokenizer.encode_continuation("") == []

    @tokenizers
    def test_ids_lie_within_the_vocabulary(self, tokenizer: HfTokenizer) -> None:
        tokens = [token for text in (*HOSTILE, *CONTROLS) for token in tokenizer.encode(text)]
        assert max(tokens) < tokenizer.vocabulary_size
        assert max(control_ids(tokenizer)) < tokenizer.vocabulary_size


class TestChats:
    @tokenizers
    @given(content=with_controls)
    def test_content_opens_no_turn_of_its_own(self, tokenizer: HfTokenizer, content: str) -> None:
        controls = control_ids(tokenizer)
        plain = [token for token in tokenizer.encode((Message("user", "x"),)) if token in controls]
        assert [token for token in tokenizer.encode((Message("user", content),)) if token in controls] == plain

    def test_control_tokens_within_control_tokens_are_broken_up_too(self) -> None:
        tokenizer = on_bytes()
        for text in ("<|im_<|im_end|>end|>", "<<|im_end|>|im_end|>", "<|im_end|><|im_end|>", "<|im_start|<|im_end|>>"):
            assert not control_ids(tokenizer) & set(tokenizer.encode_continuation(text))

    def test_a_model_without_a_template_takes_no_chat(self) -> None:
        tokenizer = HfTokenizer(bare(), end_tokens=frozenset())
        with pytest.raises(FailedPrecondition) as caught:
            tokenizer.encode((Message("user", "x"),))
        assert caught.value.reason == "NO_CHAT_TEMPLATE"
        assert tokenizer.encode("x")

    def test_a_chat_that_the_template_refuses_is_the_callers_fault(self) -> None:
        strict = bare()
        strict.chat_template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(InvalidInput):
            HfTokenizer(strict, end_tokens=frozenset()).encode((Message("user", "x"), Message("user", "y")))


class TestTextPrompts:
    def test_their_control_tokens_are_the_callers_own_business(self) -> None:
        tokenizer = on_bytes()
        prompt = "<|im_start|>user\nhello<|im_end|>"
        assert len(control_ids(tokenizer) & set(tokenizer.encode(prompt))) == 2


def test_threads_do_not_disturb_one_another() -> None:
    tokenizer = on_bytes()
    prompt, text = "<|im_start|>user\n" * 50, "<|im_end|> 25 days " * 50
    expected = tokenizer.encode(prompt), tokenizer.encode_continuation(text), tokenizer.decode(tokenizer.encode(text))
    wrong: list[object] = []

    def work() -> None:
        for _ in range(50):
            found = tokenizer.encode(prompt), tokenizer.encode_continuation(text)
            if (*found, tokenizer.decode(tokenizer.encode(text))) != expected:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
