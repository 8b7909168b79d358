"""Which version of this software runs, and what it needs."""

import re
from importlib.metadata import PackageNotFoundError, requires, version

NAME = "multisite-ecg"


def software_version() -> str:
    """As it is installed; "unknown" for a checkout that is run without having been installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "unknown"


def requirements() -> list[str]:
    """The installed versions of what this software needs, as pip's requirements; no address.

    Itself is among them by its version alone; what it can do without (its extras) is not.
    """
    try:
        stated = requires(NAME) or []
    except PackageNotFoundError:
        return []
    needed = [text for text in stated if "extra ==" not in text]
    names = [found[0] for text in needed if (found := re.match(r"[A-Za-z0-9._-]+", text))]
    # torch==2.11.0+cpu is on no registry but PyTorch's own.
    return [f"{name}=={version(name).split('+')[0]}" for name in (NAME, *names)]
