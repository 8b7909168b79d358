"""The key of a stage: the hash of exactly what its builder is given, and the code that reads it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from datamodules.provenance import code_of
from lightning_modules.target import name_of, targets_in


def key_of(given: Any) -> str:
    """Of a frozen dataclass: 16 hexadecimal digits that change with any of its values, and with the
    code and libraries that its class, its values' classes and their `_target_`s pass through."""
    values = plain_values(given)
    text = json.dumps([values, code_of(modules_of(given))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain_values(value: Any) -> Any:
    """As JSON-ready values: a file by its content, what has a `digest` by that.

    TypeError for a value that can't be told by its content.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, type):
        return {"class": name_of(value)}
    if isinstance(value, Path):
        return {"file": file_digest(value)}
    if hasattr(value, "digest"):
        return {"digest": value.digest}
    if is_dataclass(value):
        own = {field.name: plain_values(getattr(value, field.name)) for field in fields(value)}
        return {"is": f"{type(value).__module__}.{type(value).__qualname__}", **own}
    if isinstance(value, Mapping):
        # In order: a fusion's submodels are another fusion the other way round.
        return [[str(name), plain_values(of)] for name, of in value.items()]
    if isinstance(value, list | tuple):
        return [plain_values(of) for of in value]
    raise TypeError(f"{type(value).__name__} can't be told by its content")


def modules_of(given: Any) -> set[str]:
    """The modules of the classes of a dataclass and of its values, and of their `_target_`s."""
    return {module for module in _modules(given) if module.partition(".")[0] != "builtins"}


def _modules(value: Any) -> Iterator[str]:
    if isinstance(value, type):
        yield value.__module__
    elif hasattr(value, "digest"):
        yield type(value).__module__
        yield from _modules(getattr(value, "read_by", ()))
    elif is_dataclass(value):
        yield type(value).__module__
        for field in fields(value):
            yield from _modules(getattr(value, field.name))
    elif isinstance(value, Mapping):
        # Of a target's class, where that is one: an alias is no module of its own.
        for target in targets_in(value):
            yield target.rpartition(".")[0]
        for of in value.values():
            yield from _modules(of)
    elif isinstance(value, list | tuple):
        for of in value:
            yield from _modules(of)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
