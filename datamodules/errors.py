"""The exceptions for a mistake that a person can mend."""

import stat
from collections.abc import Iterable, Sequence
from pathlib import Path


class InputError(Exception):
    """A person's mistake: the message says where, what and the remedy, and is all they see."""


class NoAnswerError(InputError):
    """A model that can't be asked this, whatever the exam."""


class FileError(InputError):
    """A file that cannot be used; reads `<path>: <reason>. <remedy>`.

    `reason` and `remedy` are without a full stop, and `reason` goes on after the path.
    """

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        # All three are the exception's arguments, so that it survives the way between processes.
        super().__init__(path, reason, remedy)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}. {self.remedy}"


def check_ordinary(path: Path) -> None:
    """Raise OSError for what is not there, and for a pipe, socket or device.

    To open one of these can wait for ever, and to read it may never end.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(None, "it is a pipe, socket or device, not a file")


def listed(names: Iterable[str]) -> str:
    """a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def listing(problems: Sequence[str], limit: int = 20) -> str:
    """Problems as indented lines, the first `limit` spelled out and the rest counted."""
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(lines)
