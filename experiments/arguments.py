"""What stands on the command line: a launch's options, its overrides, and no password."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from datamodules.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """`overrides` are Hydra's (NAME=VALUE, ~NAME), `folder` holds a person's own configs."""

    overrides: tuple[str, ...] = ()
    folder: Path | None = None
    multirun: bool = False
    help: bool = False
    config: bool = False
    completion: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """What every job of a sweep is started with, beside its overrides."""
        return () if self.folder is None else ("--config-dir", str(self.folder))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. There are {', '.join(OPTIONS)}; all else is NAME=VALUE.")


OPTIONS = ("--help", "--config", "--config-dir DIR", "--multirun (-m)", "--shell-completion (-sc)")


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """The launch that is asked for; a password in an address goes to MLflow's variables at once.

    Raises InputError for an unknown option.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config", action="store_true")
    parser.add_argument("--config-dir", "-cd", dest="folder", type=Path)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--shell-completion", "-sc", dest="completion")
    known = parser.parse_intermixed_args(list(arguments))
    known.overrides = tuple(
        take_credentials(o) if re.match(r"\W*tracking\b|.*https?://", o) else o
        for o in known.overrides
    )
    known.folder = known.folder and known.folder.resolve()  # jobs may run elsewhere
    return Arguments(**vars(known))


def take_credentials(text: str) -> str:
    """`text` without the user and password of an address; MLflow finds them in its variables.

    A name without a password leaves a password that is already there.
    """
    found = re.search(r"://(\S*)@", text)
    if found is None:
        return text
    user, _, password = found[1].partition(":")
    for variable, value in (("USERNAME", user), ("PASSWORD", password)):
        if value:
            os.environ[f"MLFLOW_TRACKING_{variable}"] = unquote(value)
    return text[: found.start(1)] + text[found.end() :]
