"""Tensor work outside the thread that runs the model."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """Returns what the work returns, done in a thread that ends with it.

    Every thread that computes with torch gets compute threads of its own,
    which live as long as it does. Once they outnumber the processors, libgomp
    no longer lets a waiting one spin, and a decoding step takes 1.6 times as
    long (docs/log.md). So only the thread that runs the model may keep its own.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="generator-apart") as thread:
        return thread.submit(work).result()
