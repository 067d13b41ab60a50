"""The text stream: whole characters only, never a stop string, the same however the text is cut into tokens."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.backend.tokenizer import HfTokenizer
from services.generator.engine import TextStream
from tests.fakes.generator import ByteTokenizer
from tests.fakes.generator_tokens import on_bytes, on_characters

decode = ByteTokenizer().decode
SIZE = on_bytes().vocabulary_size
every_plane = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd▁"), max_size=60)
tokenizers = pytest.mark.parametrize("tokenizer", [on_bytes(), on_characters()], ids=["bytes", "characters"])


def pieces(
    tokens: Sequence[int],
    stop: Sequence[str] = (),
    *,
    decode: Callable[[Sequence[int]], str] = decode,
) -> tuple[list[str], TextStream]:
    stream = TextStream(decode, stop=stop)
    out = [stream.push(token) for token in tokens if not stream.stopped]
    return [*out, stream.finish()], stream


def cut(text: str, stop: Sequence[str]) -> str:
    """Returns the text before the stop string that is complete first, the longest of those complete together."""
    ends = [(text.find(one) + len(one), text.find(one)) for one in stop if one in text]
    return text[: min(ends)[1]] if ends else text


class TestWholeCharacters:
    @tokenizers
    @given(every_plane)
    def test_the_pieces_add_up_to_the_text_and_are_whole_characters(self, tokenizer: HfTokenizer, text: str) -> None:
        out, _ = pieces(tokenizer.encode_continuation(text), decode=tokenizer.decode)
        assert "".join(out) == text
        assert all("\ufffd" not in piece for piece in out)

    @given(st.lists(st.integers(0, 255), max_size=200))
    def test_any_bytes_give_what_decoding_them_at_once_gives_up_to_a_broken_end(self, tokens: list[int]) -> None:
        out, _ = pieces(tokens)
        assert "".join(out).rstrip("\ufffd") == decode(tokens).rstrip("\ufffd")
        assert decode(tokens).startswith("".join(out))

    @given(st.lists(st.integers(0, SIZE - 1), max_size=200))
    def test_any_tokens_give_what_decoding_them_at_once_gives_up_to_a_broken_end(self, tokens: list[int]) -> None:
        out, _ = pieces(tokens, decode=on_bytes().decode)
        whole = on_bytes().decode(tokens)
        assert "".join(out).rstrip("\ufffd") == whole.rstrip("\ufffd")
        assert whole.startswith("".join(out))

    @tokenizers
    @given(st.lists(st.sampled_from("😀é保a "), max_size=60).map("".join))
    def test_characters_of_many_bytes_side_by_side_are_not_torn_by_the_window(
        self, tokenizer: HfTokenizer, text: str
    ) -> None:
        out, _ = pieces(tokenizer.encode_continuation(text), decode=tokenizer.decode)
        assert "".join(out) == text

    @given(every_plane, st.integers(1, 3))
    def test_a_character_cut_off_at_the_end_is_dropped(self, text: str, num_bytes: int) -> None:
        out, _ = pieces([*text.encode(), *"😀".encode()[:num_bytes]])
        assert "".join(out) == text

    def test_text_goes_out_as_soon_as_its_character_is_complete(self) -> None:
        stream = TextStream(decode)
        assert [stream.push(token) for token in "aé😀".encode()] == ["a", "", "é", "", "", "", "😀"]

    @pytest.mark.parametrize("count", [63, 64, 65, 66, 67, 130])
    def test_broken_bytes_are_given_up_without_losing_the_character_after_them(self, count: int) -> None:
        out, _ = pieces([0x80] * count + [*"😀é".encode()])
        assert "".join(out) == "\ufffd" * count + "😀é"

    def test_broken_bytes_and_whole_characters_within_one_token_are_told_once(self) -> None:
        words = [b"\x80", b"x\xf0", b"\x9f\x98\x80"]

        def joined(tokens: Sequence[int]) -> str:
            return b"".join(words[token] for token in tokens).decode(errors="replace")

        for count in range(55, 70):
            tokens = [0] * count + [1, 2, 1, 2]
            assert "".join(pieces(tokens, decode=joined)[0]) == joined(tokens)


class TestStopStrings:
    @given(st.text("ab<é", max_size=60), st.lists(st.text("ab<é", min_size=1, max_size=4), max_size=4), st.data())
    def test_the_text_ends_before_the_stop_string_that_is_complete_first_whatever_the_tokens(
        self, text: str, stop: list[str], data: st.DataObject
    ) -> None:
        places = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
        words = [text[start:end] for start, end in pairwise(places)]
        out, stream = pieces(range(len(words)), stop, decode=lambda tokens: "".join(words[token] for token in tokens))
        assert "".join(out) == cut(text, stop)
        assert stream.stopped == any(one in text for one in stop)

    @given(
        st.lists(st.integers(0, SIZE - 1), max_size=120),
        st.lists(st.tuples(st.integers(0, 100), st.integers(1, 12)), max_size=4),
        st.lists(st.text(min_size=1, max_size=3), max_size=2),
    )
    def test_random_tokens_end_where_the_whole_text_would(
        self, tokens: list[int], places: list[tuple[int, int]], others: list[str]
    ) -> None:
        whole = on_bytes().decode(tokens).rstrip("\ufffd")
        found = [whole[start : start + size] for start, size in places]
        stop = [one for one in (*found, *others) if one and "\ufffd" not in one]
        out, _ = pieces(tokens, stop, decode=on_bytes().decode)
        assert "".join(out).rstrip("\ufffd") == cut(whole, stop).rstrip("\ufffd")

    @given(st.text("ab", max_size=40), st.text("ab", min_size=1, max_size=4))
    def test_nothing_that_was_sent_has_to_be_taken_back(self, text: str, stop: str) -> None:
        stream = TextStream(decode, stop=[stop])
        sent = ""
        for count, token in enumerate(text.encode(), 1):
            sent += stream.push(token)
            if stream.stopped:
                break
            assert text.startswith(sent)
            held = text[len(sent) : count]
            assert stop.startswith(held)

    def test_one_across_token_borders_is_found(self) -> None:
        out, stream = pieces(list(b"answer\n\nQuestion"), ["\n\nQ"])
        assert (stream.stopped, "".join(out)) == (True, "answer")

    def test_one_that_never_came_is_text_at_the_end(self) -> None:
        out, stream = pieces(list(b"answer\n\n"), ["\n\nQ"])
        assert (stream.stopped, out[-1]) == (False, "\n\n")

    def test_one_within_a_longer_one_ends_the_text_as_soon_as_it_is_complete(self) -> None:
        for words in (["a", "b", "c", "d"], ["ab", "cd"], ["abcd"]):
            out, _ = pieces(
                range(len(words)), ["abcd", "bc"], decode=lambda ts, words=words: "".join(words[t] for t in ts)
            )
            assert "".join(out) == "a"

    def test_of_two_complete_together_the_longer_one_counts(self) -> None:
        assert "".join(pieces(list(b"xabc"), ["c", "abc"])[0]) == "x"

    def test_nothing_comes_after_it(self) -> None:
        stream = TextStream(decode, stop=["."])
        assert stream.push(ord(".")) == ""
        assert stream.push(ord("x")) == ""
        assert stream.finish() == ""


class TestWindow:
    @pytest.mark.parametrize("silent", [0, 1, 2, 5])
    def test_a_decoder_that_strips_a_leading_blank_loses_none_in_the_middle(self, silent: int) -> None:
        words = [f" word{number}" for number in range(200)]
        tokens = [token for number in range(200) for token in (number, *[200] * silent)]
        out, _ = pieces(tokens, decode=lambda ts: "".join(words[t] for t in ts if t < 200).removeprefix(" "))
        assert "".join(out) == "".join(words).strip()

    @given(st.lists(st.sampled_from([" ", "  ", "a", " b", "\n"]), max_size=80).map("".join))
    def test_blanks_survive_it(self, text: str) -> None:
        out, _ = pieces(on_characters().encode_continuation(text), decode=on_characters().decode)
        assert "".join(out) == text

    @pytest.mark.parametrize(
        "tokens",
        [
            pytest.param(list(b"all is well, " * 400), id="words"),
            pytest.param([*"😀保é".encode()] * 400, id="characters"),
            pytest.param([0x80] * 4000, id="broken bytes"),
            pytest.param([0xF0] * 4000, id="beginnings of characters"),
            pytest.param([256] * 4000, id="tokens without text"),
            pytest.param(([0xE4, 0x80] * 40 + [65]) * 50, id="broken characters"),
        ],
    )
    def test_a_token_costs_the_same_at_the_end_of_a_long_text(self, tokens: list[int]) -> None:
        sizes: list[int] = []

        def counted(window: Sequence[int]) -> str:
            sizes.append(len(window))
            return decode(window)

        out, _ = pieces(tokens, decode=counted)
        assert "".join(out).rstrip("\ufffd") == decode(tokens).rstrip("\ufffd")
        assert max(sizes) <= 64
        assert len(sizes) <= 1.2 * len(tokens)
