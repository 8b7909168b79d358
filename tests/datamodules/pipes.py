"""Whether a reader waits for ever at a named pipe that nobody writes to."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from datamodules.errors import InputError


def refusal_of_pipe(read: Callable[[], object], path: Path) -> str:
    """What `read` says of a pipe at `path`; fails where it is still waiting after 20 s."""
    os.mkfifo(path)
    said: list[str] = []

    def listen() -> None:
        try:
            read()
        except InputError as error:
            said.append(str(error))

    thread = Thread(target=listen, daemon=True)
    thread.start()
    thread.join(timeout=20)
    if thread.is_alive():
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # lets it go
        raise AssertionError("it waits for the pipe")
    assert said, "a pipe was taken"
    return said[0]
