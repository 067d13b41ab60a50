"""The text of a draft while it is written."""

from services.router.domain import Delta, Emit
from tandem.prompts import ABSTENTION

_ABSTENTION = ABSTENTION.rstrip(".").casefold()


class Writing:
    """Collects the pieces of a draft and sends them on, but holds back what may become the abstention sentence."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._pieces: list[str] = []
        self._held: str | None = ""

    @property
    def text(self) -> str:
        """The draft so far, trimmed; empty when the model wrote nothing or that it has no answer."""
        text = "".join(self._pieces).strip()
        return "" if _plain(text).startswith(_ABSTENTION) else text

    async def add(self, piece: str) -> None:
        """Takes the next piece."""
        self._pieces.append(piece)
        if self._held is None:
            await self._send(piece)
            return
        self._held += piece
        plain = _plain(self._held)
        if not _ABSTENTION.startswith(plain) and not plain.startswith(_ABSTENTION):
            held, self._held = self._held, None
            await self._send(held.lstrip())

    async def finish(self) -> None:
        """Sends what was held back for nothing."""
        if self._held is not None and self.text:
            await self._send(self._held.lstrip())

    async def _send(self, text: str) -> None:
        if text:
            await self._emit(Delta(text))


def _plain(text: str) -> str:
    return text.strip().lstrip("\"'\u201c").casefold()
