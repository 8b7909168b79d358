"""The one exception for a mistake that a person can mend."""

from collections.abc import Sequence


class InputError(Exception):
    """A person's mistake: the message says where, what and the remedy, and is all they see."""


def listing(problems: Sequence[str], limit: int = 20) -> str:
    """Problems as indented lines, the first `limit` spelled out and the rest counted."""
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(lines)
