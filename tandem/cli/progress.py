"""How far long work is: bars in a terminal, a line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)
_QUIET_S = 15.0


class Bars:
    """Shows how far the parts of a step are: bars in a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._told = time.monotonic()

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, what: str, done: int, total: int, *, note: str = "", left_s: float | None = None) -> None:
        """Says how much of a part is done; left_s is the time left where the caller knows it better."""
        now = time.monotonic()
        started = self._started.setdefault(what, now)
        if left_s is None and 0 < done < total:
            left_s = (now - started) * (total - done) / done
        told = ", ".join(filter(None, (note, f"{_span(left_s)} left" if left_s and done < total else "")))
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, note=told)
        self._progress.update(self._tasks[what], completed=done, total=total, note=told)
        if not console.is_terminal and (now - self._told > _QUIET_S or done == total > 1):
            self._told = now
            console.print(f"{what}: {done}/{total}" + (f", {told}" if told else ""), markup=False, soft_wrap=True)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
