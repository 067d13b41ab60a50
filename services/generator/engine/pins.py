"""Lets go of the pins of calls that never begin.

A coroutine or generator that is closed, cancelled or dropped before its first
step runs none of its own code, so what it would have released is released
here.
"""

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

from services.generator.domain import Event, Pin

T = TypeVar("T")


class _Hold:
    """Holds pins until the code that takes care of them begins."""

    def __init__(self, pins: tuple[Pin, ...]) -> None:
        self._pins = pins

    def begin(self) -> None:
        """Leaves the pins to the code that begins now."""
        self._pins = ()

    def drop(self) -> None:
        """Releases the pins if that code has not begun."""
        pins, self._pins = self._pins, ()
        for pin in pins:
            pin.release()

    def __del__(self) -> None:
        self.drop()


class PinnedEvents(AsyncGenerator[Event, None]):
    """Passes on the events of a generator that takes care of the pins once it has begun."""

    def __init__(self, events: AsyncGenerator[Event, None], pins: tuple[Pin, ...]) -> None:
        self._events = events
        self._hold = _Hold(pins)

    async def asend(self, value: None) -> Event:
        """Returns the next event."""
        self._hold.begin()
        return await self._events.asend(value)

    async def athrow(self, *error: Any) -> Event:
        """Raises an error where the generator stands."""
        self._hold.drop()
        return await self._events.athrow(*error)

    async def aclose(self) -> None:
        """Ends the generator."""
        self._hold.drop()
        await self._events.aclose()


class PinnedCall(Coroutine[Any, Any, T]):
    """Runs a coroutine that takes care of the pins once it has begun."""

    def __init__(self, call: Coroutine[Any, Any, T], pins: tuple[Pin, ...]) -> None:
        self._call = call
        self._hold = _Hold(pins)

    def __await__(self) -> Generator[Any, Any, T]:
        self._hold.begin()
        return self._call.__await__()

    def send(self, value: Any) -> Any:
        """Goes on to the next wait."""
        self._hold.begin()
        return self._call.send(value)

    def throw(self, *error: Any) -> Any:
        """Raises an error where the coroutine stands."""
        self._hold.drop()
        return self._call.throw(*error)

    def close(self) -> None:
        """Ends the coroutine."""
        self._hold.drop()
        self._call.close()
