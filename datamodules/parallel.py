"""One way to spread work over processes, and the bar that shows how far it is."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def progress_bar(total: int | None, description: str) -> Any:
    """A bar of `total` steps (None: unknown) that goes away when done.

    Where the output is a file, it is a line every ten seconds.
    """
    return tqdm(
        total=total,
        desc=description,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, *, description: str
) -> Iterator[Result]:
    """Yield `function(item)` in the order of `items`; `workers` <= 1 stays in this process.

    Processes are spawned, not forked: a fork after torch has started its threads can hang.
    At most four items a worker are under way, so that memory does not grow with `items`. What
    `function` raises is raised here, in its item's turn; what has not begun by then never begins.
    """
    if not items:
        return
    with progress_bar(len(items), description) as bar:
        if workers <= 1 or len(items) <= 1:
            for item in items:
                yield function(item)
                bar.update()
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = iter(items)
            under_way: deque[Future[Result]] = deque()
            try:
                for item in waiting:
                    under_way.append(pool.submit(function, item))
                    if len(under_way) >= 4 * workers:
                        yield under_way.popleft().result()
                        bar.update()
                while under_way:
                    yield under_way.popleft().result()
                    bar.update()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
