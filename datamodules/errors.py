"""The exceptions for a mistake that a person can mend."""

from collections.abc import Sequence
from pathlib import Path


class InputError(Exception):
    """A person's mistake: the message says where, what and the remedy, and is all they see."""


class FileError(InputError):
    """A file that cannot be used; reads `<path>: <reason>. <remedy>`."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        # All three are the exception's arguments, so that it survives the way between processes.
        super().__init__(path, reason, remedy)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}. {self.remedy}"


def listing(problems: Sequence[str], limit: int = 20) -> str:
    """Problems as indented lines, the first `limit` spelled out and the rest counted."""
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(lines)
