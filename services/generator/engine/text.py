"""Turns a stream of tokens into a stream of text that is safe to send."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
_WINDOW = 16


class TextStream:
    """Decodes tokens one by one and gives out text that no later token can change.

    Held back are the bytes of a character that is not complete yet, and
    whatever may turn out to be the beginning of a stop string. The text never
    holds a stop string; of several in the same text the earliest ends it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], *, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._shown = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that may be sent now; sets `stopped` at a stop string."""
        if self.stopped:
            return ""
        return self._release(self._settled(token))

    def finish(self) -> str:
        """Returns what was held back in case of a stop string; an incomplete character at the end is dropped."""
        tail, self._held = self._held, ""
        return "" if self.stopped else tail

    def _settled(self, token: int) -> str:
        """Returns the characters that are complete with this token and were not before.

        Only a window of the last tokens is decoded. It always keeps one token
        whose text is out already, since decoders treat the first token of a
        text in a special way (leading blanks).
        """
        self._tokens.append(token)
        text = self._decode(self._tokens)
        stable = text.rstrip(_INCOMPLETE)
        fresh = stable[self._shown :]
        self._shown = max(self._shown, len(stable))
        if len(self._tokens) >= _WINDOW and stable == text:
            del self._tokens[:-1]
            self._shown = len(self._decode(self._tokens))
        return fresh

    def _release(self, fresh: str) -> str:
        text = self._held + fresh
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of `text` that `stop` begins with, less than all of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
