"""What code and which libraries a result passes through, so that a changed one is not reused.

Told by the imports that a module's source states, not by what happens to be loaded.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

# Rooms that a result passes through; the rest of this software only tells, tracks and draws.
ROOMS = (
    "datamodules",
    "lightning_modules",
    "experiments.stages",
    "experiments.evaluation",
)
OURS = ("datamodules", "lightning_modules", "experiments", "configs")


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the code of `modules` and of all that they import, and libraries' versions.

    {"code": digest, "torch": "2.11.0", ...}. Followed are imports of this software's own rooms
    (`ROOMS`), and for a module from elsewhere those of its own package, unless that is installed,
    and of modules that stand beside it. Comments, docstrings and layout don't count. Raises
    ModuleNotFoundError for a module that is not there.
    """
    digest, libraries = hashlib.sha256(), set[str]()
    for name in sorted(_closure(tuple(sorted(set(modules))))):
        source = _source(name)
        digest.update(f"{name}\n{source.code}\n".encode())
        libraries |= source.libraries
    return {"code": digest.hexdigest(), **{name: _version(name) for name in sorted(libraries)}}


class _Source:
    """One module: its code without what does not count, and what it imports."""

    def __init__(self, name: str, path: Path) -> None:
        tree = ast.parse(path.read_bytes())
        imported = set(_imported(tree, name, is_package=path.name == "__init__.py"))
        self.own = {module for module in imported if _followed(module, name)}
        self.libraries = {_top(module) for module in imported - self.own if _distribution(module)}
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                body[0] = ast.Pass()
        self.code = ast.dump(tree)


@cache
def _closure(modules: tuple[str, ...]) -> frozenset[str]:
    found, waiting = set[str](), list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0]] if _followed(name.rpartition(".")[0], name) else []
        waiting += _source(name).own
    return frozenset(found)


@cache
def _source(name: str) -> _Source:
    path = _file(name)
    if path is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _Source(name, path)


@cache
def _file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _followed(module: str, importer: str) -> bool:
    """Whether a result passes through `module` where it passes through `importer`."""
    if _is_ours(module):
        return any(module == room or module.startswith(f"{room}.") for room in ROOMS)
    if not _may_be_followed(module, importer):
        return False
    file, beside = _file(module), _file(importer)
    if file is None or beside is None:
        return False
    same = _top(module) == _top(importer) and "site-packages" not in file.parts
    return same or beside.parent in file.parents


def _may_be_followed(module: str, importer: str) -> bool:
    """Told without looking for `module`, which would import the packages that it is in."""
    top = _top(module)
    if not top or _is_ours(module):
        return bool(top)
    if _is_ours(importer) or top in sys.stdlib_module_names:
        return False
    beside = _file(importer)
    return top == _top(importer) or (
        beside is not None and any(beside.parent in place.parents for place in _places(top))
    )


@cache
def _places(top: str) -> tuple[Path, ...]:
    """Where a top-level module lies: its file, or its package's folders."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # __main__ has none
        return ()
    if spec is None:
        return ()
    folders = spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
    return tuple(Path(folder) for folder in folders)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_ours(module: str) -> bool:
    return _top(module) in OURS


def _imported(tree: ast.Module, name: str, *, is_package: bool) -> Iterator[str]:
    """Every module that the code imports, wherever, but for the type checker alone."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            # To look for a module within another imports the latter: only packages are asked.
            if _may_be_followed(module, name) and _is_package(module):
                inner = (f"{module}.{alias.name}" for alias in node.names)
                yield from (full for full in inner if _file(full) is not None)


def _is_package(module: str) -> bool:
    file = _file(module)
    return file is None or file.name == "__init__.py"  # none: perhaps a folder without one


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _distribution(module: str) -> str | None:
    top = _top(module)
    if _is_ours(module) or top in sys.stdlib_module_names:
        return None
    return next(iter(_distributions().get(top, [])), None)


@cache
def _version(library: str) -> str:
    distribution = _distribution(library)
    assert distribution is not None
    return version(distribution)
