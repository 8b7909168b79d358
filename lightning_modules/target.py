"""What a configuration or a checkpoint names by `_target_`: a class or function, and where from."""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Whose code a checkpoint may name without being asked: that of this software.
OURS = ("lightning_modules", "datamodules")


def resolve(target: str) -> Any:
    """The class or function of a dotted name. ValueError, saying why, where it can't be had."""
    module, _, name = str(target).rpartition(".")
    if not module:
        raise ValueError(f"_target_={target}: write it as package.module.Class")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"_target_={target} can't be imported ({error})") from None
    except AttributeError:
        raise ValueError(f"_target_={target}: {module} has no {name}") from None
    if not callable(found):
        raise ValueError(f"_target_={target} is neither a class nor a function")
    return found


def name_of(kind: type) -> str:
    """The dotted name by which `resolve` finds a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def targets_in(values: Any) -> Iterator[str]:
    """Every `_target_` in plain values, however deep."""
    if isinstance(values, Mapping):
        if isinstance(target := values.get("_target_"), str):
            yield target
        for value in values.values():
            yield from targets_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from targets_in(value)


def check_allowed(values: Any, allowed: Iterable[str] = ()) -> None:
    """Raise ValueError where plain values name code of neither this software nor `allowed` modules.

    Told by the names alone, before anything is imported; and what this software's own modules hold
    of others' (`lightning_modules.x.torch`) is not its own.
    """
    allowed = set(allowed)
    for target in targets_in(values):
        parts = target.split(".")[:-1]
        if not parts:
            raise ValueError(f"_target_={target}: write it as package.module.Class")
        roots = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        if roots & allowed:
            continue
        if parts[0] not in OURS or getattr(resolve(target), "__module__", "").split(".")[0] not in (
            OURS
        ):
            raise ValueError(
                f"it names {target}, which is not this software's: loading it would run code from "
                f"there. If you trust {parts[0]}, allow it: allow=[{parts[0]}]"
            )
