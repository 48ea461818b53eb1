"""Calls made in a thread behind the one that computes what they are given: writing, while the next block is computed.

Comes from and goes to: `stream`. No torch here.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def behind(call: Callable[[T], object], waiting: int = 4) -> Iterator[Callable[[T], None]]:
    """Gives what to call instead: it returns before `call` does, but never with more than `waiting` calls undone.

    The calls are made one after the other, in order; when the block ends, all are done.

    Raises:
        What a call raised: from a later call, or at the end of the block.
    """
    with ThreadPoolExecutor(1) as thread:
        undone: deque[Future[object]] = deque()

        def put(given: T) -> None:
            undone.append(thread.submit(call, given))
            if len(undone) > waiting:
                undone.popleft().result()

        try:
            yield put
            while undone:
                undone.popleft().result()
        except BaseException:
            thread.shutdown(cancel_futures=True)
            raise
