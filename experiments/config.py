"""Hydra composes configs/ and the command line; a mistake is answered with what would be right."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from datamodules.errors import InputError
from experiments.arguments import Arguments, read_arguments, take_credentials
from experiments.mistakes import check_choices, check_parents, complaints, nearest
from experiments.overrides import (
    CONFIGS,
    Typed,
    folders_of,
    groups,
    options,
    parsed_overrides,
    search_path,
)
from experiments.schema import Config

WIDTH = 100  # characters of the help

HELP = """\
Train and externally validate ECG models across hospitals; everything goes to MLflow.

    python -m experiments.run [NAME=VALUE ...]

Studies (configs/experiment):
{studies}

Most used:
    cohort=manifests cohort.root=DIR      your own hospitals: one manifest (<institution>.csv or
                                          .parquet) an institution, paths in it relative to DIR
    cohort.development=[a,b]              institutions that are trained on
    cohort.external=[c,d]                 institutions that are only tested on (default: the rest)
    cohort.on_error=skip                  leave out, count and list recordings that can't be used
    target=lvsd | ph | COLUMN             LVEF below lvsd.lvef_below_percent, pulmonary
                                          hypertension by the column ph or the rule in ph, or any
                                          0/1 column; target=[A,B] is several
    target=lvef_percent task=regression   how much, of any column of numbers
    scale=small | scale=paper             minutes on two cores, or the papers' own sizes
    network=vit_base                      see the groups below
    models.mine={{...}}  ~models.cnn        add a model to the study, or leave one out
    tracking.uri=URI                      an MLflow server (default: a SQLite file under mlruns/)
    trainer.devices=2 trainer.strategy=ddp
    -m seed=1,2,3 network=a,b             a sweep: a launch for each combination, in one parent run
    --config-dir DIR                      your own options beside these: DIR/network/mine.yaml is
                                          network=mine; a module in DIR is found by _target_
    --config                              print the resulting configuration and stop

Groups (GROUP=OPTION; each is a file in configs/GROUP):
{groups}

Any value in those files can be overridden: pretrain.masking=mixed finetune.max_epochs=50 ...
Completion in bash: eval "$(multisite-ecg --shell-completion install=bash)"
"""


def compose_config(arguments: Sequence[str]) -> Config:
    """The checked configuration of one launch.

    Raises InputError for an unknown or misspelt key, with the nearest right ones, and for a value
    of the wrong kind or out of range.
    """
    wanted = read_arguments(arguments)
    with configs(wanted) as folders:
        typed = parsed_overrides(wanted.overrides)
        for override in typed:
            if override.parsed.is_sweep_override():
                raise InputError(
                    f"{override.text}: these are several values. Give one, add -m for a launch "
                    "each, or quote a text with commas."
                )
        return _config(typed, folders)


def with_sweep(wanted: Arguments) -> Arguments:
    """`wanted` with what its configuration's `sweep` varies, but for keys that are given."""
    with configs(wanted) as folders:
        typed = parsed_overrides(wanted.overrides)
        first = parsed_overrides(_batch(typed)[0])
        config = _config([*(o for o in typed if o.hydras), *first], folders)
    given = {o.key for o in typed}
    more = [
        f"{key}={','.join('null' if value is None else str(value) for value in values)}"
        for key, values in config.sweep.items()
        if key not in given
    ]
    return replace(wanted, overrides=(*wanted.overrides, *more))


def compose_jobs(wanted: Arguments) -> list[tuple[list[str], Config]]:
    """The jobs of a sweep by Hydra's own sweeper: the swept overrides and configuration of each.

    Raises InputError, as `compose_config`, for whatever is wrong with any of them.
    """
    with configs(wanted) as folders:
        typed = parsed_overrides(wanted.overrides)
        swept = [o.key for o in typed if o.parsed.is_sweep_override()]
        jobs = []
        for overrides in _batch(typed):
            job = parsed_overrides(overrides)
            config = _config([*(o for o in typed if o.hydras), *job], folders)
            jobs.append(([o.text for o in job if o.key in swept], config))
        return jobs


def _batch(typed: Sequence[Typed]) -> list[list[str]]:
    """The overrides of each job."""
    try:
        (batch,) = BasicSweeper.split_arguments([o.parsed for o in typed if not o.hydras], None)
    except HydraException as error:
        raise InputError(f"-m: {error}.") from None
    return [list(overrides) for overrides in batch]


def hydra_overrides(wanted: Arguments) -> list[str]:
    """What Hydra is given for these arguments."""
    found = [] if wanted.folder is None else [search_path(wanted.folder)]
    return found + [override.for_hydra for override in parsed_overrides(wanted.overrides)]


def _config(typed: Sequence[Typed], folders: Sequence[Path]) -> Config:
    check_choices(typed, folders)
    found = [search_path(folder) for folder in folders[1:]]
    chosen = [o.for_hydra for o in typed if o.chooses]
    if len(chosen) < len(typed):
        try:
            files: Any = OmegaConf.to_container(compose("run", overrides=found + chosen))
        except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError):
            pass  # what is wrong is said below
        else:
            check_parents(files, typed)
    try:
        composed = compose("run", overrides=found + [o.for_hydra for o in typed])
        OmegaConf.resolve(composed)
    except (HydraException, ValueError, yaml.YAMLError) as error:
        raise InputError(_explained(error, typed, found + chosen)) from None
    except OmegaConfBaseException as error:
        raise InputError(f"the configuration does not resolve: {error}") from None
    missing = OmegaConf.missing_keys(composed)
    if missing:
        raise InputError(
            f"{', '.join(sorted(missing))} must be given, for example {min(missing)}=VALUE."
        )
    values: Any = OmegaConf.to_container(composed)
    if isinstance(values.get("tracking"), dict) and isinstance(values["tracking"].get("uri"), str):
        values["tracking"]["uri"] = take_credentials(values["tracking"]["uri"])
    if isinstance(values.get("readers"), dict) and values["readers"].get("table") is not None:
        # a table of readings knows no model, and is of study B's target only if a person says so
        values["models"], values["fusion"] = {}, None
        if "target" not in {override.key for override in typed}:
            values["target"] = "outcome"
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(complaints(error, values, typed)) from None


def _explained(error: Exception, typed: Sequence[Typed], choices: list[str]) -> str:
    for override in typed:
        if override.parsed.is_delete() and f"'{override.key}'" in str(error):
            values: Any = OmegaConf.to_container(compose("run", overrides=choices))
            return f"{override.text}: there is no such key. {nearest(override.key, values)}"
    return f"the configuration can't be composed: {error}"


def plain(config: Any) -> Any:
    """Plain dicts, lists and values: what checkpoints and digests hold."""
    if isinstance(config, BaseModel):
        return config.model_dump(by_alias=True)
    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=True)
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    return config


def as_yaml(config: Config) -> str:
    """The configuration as a file in configs/ would say it."""
    text: str = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    return text


def help_text(folder: Path | None = None) -> str:
    """What `--help` prints: the studies and groups are read from configs/ and a person's folder."""
    folders = folders_of(folder)
    studies = [
        f"    experiment={path.stem:<16} {_first_comment(path)}"
        for path in options("experiment", folders)
    ]
    listed = [
        line
        for group in sorted(groups() - {"experiment"})
        for line in wrap(
            f"{group:<11} {', '.join(option.stem for option in options(group, folders))}",
            WIDTH,
            initial_indent="    ",
            subsequent_indent=" " * 16,
        )
    ]
    return HELP.format(studies="\n".join(studies), groups="\n".join(listed))


def complete(wanted: Arguments) -> None:
    """Hydra's shell completion: print what `wanted.completion` asks for."""
    if sys.argv[0].endswith(".py"):
        raise InputError(
            "Completion is the installed command's: "
            'eval "$(multisite-ecg --shell-completion install=bash)".'
        )
    line = os.environ.get("COMP_LINE", "")
    # Hydra's completion knows its search path, and not --config-dir.
    found = re.search(r"(?:--config-dir|-cd)[ =](\S+)\s", line)
    if found:
        path = search_path(Path(found[1]))
        os.environ["COMP_LINE"] = f"{line[: found.start()]}{path} {line[found.end() :]}"
    with configs(wanted):
        running = GlobalHydra.instance().hydra
        assert running is not None
        running.shell_completion("run", [str(wanted.completion)])


@contextmanager
def configs(wanted: Arguments) -> Iterator[list[Path]]:
    """Hydra on configs/; the folders of options, a person's own after ours.

    Modules in that folder can be imported from then on.
    """
    folders = folders_of(wanted.folder)
    for folder in map(str, folders[1:]):
        if folder not in sys.path:
            sys.path.append(folder)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield folders


def _first_comment(path: Path) -> str:
    comments = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    return next((line[2:] for line in comments if not line.startswith("# @package")), "")
