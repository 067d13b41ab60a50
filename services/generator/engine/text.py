"""Turns a stream of tokens into a stream of text that is safe to send."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
_WINDOW = 16
_LONGEST_WAIT = 64
_LONGEST_CHARACTER = 4


class TextStream:
    """Decodes tokens one by one and gives out text that no later token can change.

    Held back are the bytes of a character that is not complete yet, and
    whatever may turn out to be the beginning of a stop string. The text never
    holds a stop string: the one that is complete first ends it, of several
    complete with the same character the longest. So the text does not depend
    on how it was cut into tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], *, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._settled = 0
        self._before = 0
        self._shown = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that may be sent now; sets `stopped` at a stop string."""
        if self.stopped:
            return ""
        return self._release(self._fresh(token))

    def finish(self) -> str:
        """Returns what was held back in case of a stop string; an incomplete character at the end is dropped."""
        tail, self._held = self._held, ""
        return tail

    def _fresh(self, token: int) -> str:
        """Returns the characters that are complete with this token and were not before.

        Only a window of the last tokens is decoded, so that a token costs the
        same however long the text is. A window begins between two characters
        (a decoder may take bytes that follow one another as one whole) and
        with tokens whose text is out already (a decoder may treat the first
        token of a text in a special way, as to leading blanks).
        """
        self._tokens.append(token)
        text = self._decode(self._tokens)
        complete = text.rstrip(_INCOMPLETE)
        fresh = complete[self._shown :]
        self._shown = max(self._shown, len(complete))
        if complete == text:
            if fresh:
                self._before, self._settled = self._settled, len(self._tokens)
            if len(self._tokens) >= _WINDOW and self._before:
                self._begin_at(self._before)
        if len(self._tokens) >= _LONGEST_WAIT:
            fresh += self._give_up(text)
        return fresh

    def _begin_at(self, place: int) -> None:
        """Lets the window begin with the token at this place; all that it holds then is out."""
        del self._tokens[:place]
        self._settled = len(self._tokens)
        self._before = 0
        self._shown = len(self._decode(self._tokens).rstrip(_INCOMPLETE))

    def _give_up(self, text: str) -> str:
        """Returns the text of broken bytes, for which no later token makes up, but for the last few.

        Bytes are decoded alike in one piece and in two if they are cut between two characters.
        """
        for place in range(len(self._tokens) - 1, len(self._tokens) - 1 - _LONGEST_CHARACTER, -1):
            first = self._decode(self._tokens[:place])
            if first + self._decode(self._tokens[place:]) == text:
                break
        fresh = first[self._shown :]
        del self._tokens[:place]
        self._settled = self._before = 0
        self._shown = max(0, self._shown - len(first))
        return fresh

    def _release(self, fresh: str) -> str:
        text = self._held + fresh
        found = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of `text` that `stop` begins with, less than all of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
