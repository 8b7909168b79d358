"""One launch's overrides as a person typed them, and the files that they choose from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from datamodules.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Typed:
    """One override: as typed, and as Hydra reads it."""

    text: str
    parsed: Override

    @property
    def key(self) -> str:
        return self.parsed.key_or_group

    @property
    def chooses(self) -> bool:
        """Whether a file of a group is chosen."""
        return self.key.split("@")[0] in groups()

    @property
    def hydras(self) -> bool:
        return self.key.split(".")[0].split("/")[0] == "hydra"

    @property
    def for_hydra(self) -> str:
        """Whatever is no choice is added if need be: the schema knows which keys there are."""
        text = str(self.parsed.input_line)
        if self.chooses or self.hydras or self.parsed.is_delete():
            return text
        return f"++{text.lstrip('+')}"


def parsed_overrides(overrides: Sequence[str]) -> list[Typed]:
    """Each override, parsed; a value that Hydra's grammar has no place for is a text as it stands.

    Raises InputError for what is not of the form NAME=VALUE.
    """
    running = GlobalHydra.instance().hydra
    parser = OverridesParser.create(running.config_loader if running is not None else None)
    typed = []
    for text in overrides:
        try:
            (parsed,) = parser.parse_overrides([text])
        except HydraException:
            name, equals, value = text.partition("=")
            if not equals or not re.fullmatch(r"[+~]{0,2}[\w./@-]+", name):
                raise InputError(
                    f"{text!r} is not of the form NAME=VALUE. --help lists the names."
                ) from None
            quoted = QuotedString(value, Quote.double).with_quotes()
            try:
                (parsed,) = parser.parse_overrides([f"{name}={quoted}"])
            except HydraException:
                raise InputError(f"{text!r}: {name} is no name that a key can have.") from None
        typed.append(Typed(text, parsed))
    return typed


def folders_of(folder: Path | None) -> list[Path]:
    """Where options stand: in ours, and in a person's own folder.

    Raises InputError for a folder that is not there, holds no group, or an option that is ours.
    """
    if folder is None:
        return [CONFIGS]
    folder = folder.resolve()
    told = f"--config-dir {folder}"
    names = ", ".join(sorted(groups()))
    if not folder.is_dir():
        raise InputError(f"{told}: there is no such folder. It holds folders named as {names}.")
    if not any((folder / group).is_dir() for group in groups()):
        raise InputError(f"{told}: it has none of the groups {names}: DIR/network/mine.yaml.")
    for group in groups():
        for option in options(group, [folder]):
            if (CONFIGS / group / option.name).exists():
                raise InputError(f"{option}: there is a {group}={option.stem} already. Rename it.")
    return [CONFIGS, folder]


def search_path(folder: Path) -> str:
    """The override by which Hydra finds a person's own folder too."""
    path = QuotedString(f"file://{folder.resolve()}", Quote.single).with_quotes()
    return f"hydra.searchpath=[{path}]"


def groups() -> set[str]:
    """The folders of configs/: what is chosen as GROUP=OPTION."""
    return {path.name for path in CONFIGS.iterdir() if path.is_dir()}


def options(group: str, folders: Sequence[Path]) -> list[Path]:
    """The files that a group is chosen from."""
    return sorted(path for folder in folders for path in (folder / group).glob("*.yaml"))
