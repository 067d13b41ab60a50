"""The text stream: whole characters only, and never a stop string."""

from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine import TextStream
from tests.fakes.generator import ByteTokenizer

decode = ByteTokenizer().decode


def pieces(tokens: list[int], stop: list[str] | None = None) -> tuple[list[str], TextStream]:
    stream = TextStream(decode, stop=stop or [])
    out = [stream.push(token) for token in tokens if not stream.stopped]
    return [*out, stream.finish()], stream


@given(st.text(max_size=80))
def test_the_pieces_add_up_to_the_text_and_are_whole_characters(text: str) -> None:
    text = text.replace("\ufffd", "")
    out, _ = pieces(list(text.encode()))
    assert "".join(out) == text
    assert all("\ufffd" not in piece for piece in out)


@given(st.lists(st.integers(0, 255), max_size=80))
def test_any_bytes_give_what_decoding_them_at_once_gives_up_to_a_broken_end(tokens: list[int]) -> None:
    out, _ = pieces(tokens)
    assert "".join(out) == decode(tokens).rstrip("\ufffd")


@given(st.text("ab<é", max_size=60), st.lists(st.text("ab<é", min_size=1, max_size=4), min_size=1, max_size=4))
def test_the_text_ends_before_the_earliest_stop_string(text: str, stop: list[str]) -> None:
    out, stream = pieces(list(text.encode()), stop)
    # With stops of several lengths, the one that is complete first ends the text.
    ends = [text.find(s) + len(s) for s in stop if s in text]
    if not ends:
        assert not stream.stopped
        assert "".join(out) == text
        return
    complete = text[: min(ends)]
    assert stream.stopped
    assert "".join(out) == complete[: min(complete.find(s) for s in stop if s in complete)]


@given(st.text("ab", max_size=40), st.text("ab", min_size=1, max_size=4))
def test_nothing_that_was_sent_has_to_be_taken_back(text: str, stop: str) -> None:
    stream = TextStream(decode, stop=[stop])
    sent = ""
    for count, token in enumerate(text.encode(), 1):
        sent += stream.push(token)
        if stream.stopped:
            break
        assert text.startswith(sent)
        held = text[len(sent) : count]
        assert stop.startswith(held)


def test_a_stop_string_across_token_borders_is_found() -> None:
    out, stream = pieces(list(b"answer\n\nQuestion"), ["\n\nQ"])
    assert (stream.stopped, "".join(out)) == (True, "answer")


def test_a_character_cut_off_at_the_end_is_dropped() -> None:
    out, _ = pieces([*b"caf", 0xC3])
    assert "".join(out) == "caf"


def test_a_decoder_that_strips_a_leading_blank_loses_none_in_the_middle() -> None:
    words = [f" word{number}" for number in range(60)]
    stream = TextStream(lambda tokens: "".join(words[token] for token in tokens).removeprefix(" "))
    out = "".join(stream.push(token) for token in range(60)) + stream.finish()
    assert out == "".join(words).strip()


def test_nothing_comes_after_a_stop() -> None:
    stream = TextStream(decode, stop=["."])
    assert stream.push(ord(".")) == ""
    assert stream.push(ord("x")) == ""
    assert stream.finish() == ""
