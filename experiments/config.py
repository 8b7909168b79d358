"""Hydra composes configs/ and the command line; a mistake is answered with what would be right."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

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
                                          0/1 column
    scale=small | scale=paper             minutes on two cores, or the papers' own sizes
    network=vit_base                      see the groups below
    tracking.uri=URI                      an MLflow server (default: a SQLite file under mlruns/)
    trainer.devices=2 trainer.strategy=ddp
    --config                              print the resulting configuration and stop

Groups (GROUP=OPTION; each is a file in configs/GROUP):
{groups}

Any value in those files can be overridden: pretrain.masking=mixed finetune.max_epochs=50 ...
"""


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The resolved configuration of one launch.

    Raises InputError for an unknown or misspelt key, with the nearest right one, and for a value
    of the wrong kind.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
        except HydraException:
            raise InputError(_unparsable(overrides)) from None
        choices = [str(o.input_line) for o in parsed if o.key_or_group.split("@")[0] in _groups()]
        for override in parsed:
            if override.is_add() or override.is_force_add():
                raise InputError(
                    f"{override.input_line}: a new key can't be added. "
                    f"Write it without '+'. {_nearest(override.key_or_group, choices)}"
                )
            if override.is_sweep_override():
                raise InputError(f"{override.input_line}: give one value, not a sweep.")
        try:
            config = compose("run", overrides=list(overrides))
            OmegaConf.resolve(config)
        except (HydraException, ValueError) as error:
            raise InputError(_explained(error, parsed, choices)) from None
        except OmegaConfBaseException as error:
            raise InputError(f"the configuration does not resolve: {error}") from None
        if len(choices) < len(parsed):
            _check_kinds(compose("run", overrides=choices), config, parsed)
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise InputError(
            f"{', '.join(sorted(missing))} must be given, for example {min(missing)}=VALUE."
        )
    if config.readers is not None and config.readers.table is not None:
        # a table of readings knows no model, and is of study B's target only if a person says so
        config.models, config.fusion = {}, None
        if "target" not in {override.key_or_group for override in parsed}:
            config.target = "outcome"
    return config


def plain(config: Any) -> Any:
    """Plain dicts, lists and values: what checkpoints and digests hold."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def help_text() -> str:
    """What `--help` prints: the studies and groups are read from configs/."""
    studies = [
        f"    experiment={path.stem:<16} {_first_comment(path)}" for path in _options("experiment")
    ]
    groups = [
        f"    {path.name:<11} {', '.join(option.stem for option in _options(path.name))}"
        for path in sorted(CONFIGS.iterdir())
        if path.is_dir() and path.name != "experiment"
    ]
    return HELP.format(studies="\n".join(studies), groups="\n".join(groups))


def _options(group: str) -> list[Path]:
    return sorted((CONFIGS / group).glob("*.yaml"))


def _first_comment(path: Path) -> str:
    comments = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    return next(line[2:] for line in comments if not line.startswith("# @package"))


def _unparsable(overrides: Sequence[str]) -> str:
    for override in overrides:
        try:
            OverridesParser.create().parse_override(override)
        except HydraException:
            return (
                f"{override!r} is not of the form NAME=VALUE. "
                "Quote a value that has blanks or special characters: 'cohort.root=\"my data\"'. "
                "--help lists the names."
            )
    return f"the command line can't be read: {' '.join(overrides)}"


def _explained(error: Exception, parsed: Sequence[Any], choices: Sequence[str]) -> str:
    for override in parsed:
        group = override.key_or_group.split("@")[0]
        if group in _groups() and not (CONFIGS / group / f"{override.value()}.yaml").is_file():
            names = [path.stem for path in _options(group)]
            near = difflib.get_close_matches(str(override.value()), names, 1, 0.3)
            hint = f" Did you mean {group}={near[0]}?" if near else ""
            return f"{override.input_line}: {group} is one of {', '.join(names)}.{hint}"
        if isinstance(error, ConfigCompositionException) and f"'{override.key_or_group}'" in str(
            error
        ):
            nearest = _nearest(override.key_or_group, choices)
            return f"{override.input_line}: there is no such key. {nearest}"
    return f"the configuration can't be composed: {error}"


def _nearest(key: str, choices: Sequence[str]) -> str:
    try:
        composed = compose("run", overrides=list(choices))
    except (HydraException, ValueError):
        composed = compose("run")
    known = [*sorted(_groups()), *_keys(composed)]
    last = key.rsplit(".", 1)[-1]
    near = [full for full in known if full.rsplit(".", 1)[-1] == last]
    near = near or difflib.get_close_matches(key, known, 1, 0.5)
    return f"Did you mean {near[0]}?" if near else "--help and --config show the keys."


def _groups() -> set[str]:
    return {path.name for path in CONFIGS.iterdir() if path.is_dir()}


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in config.items_ex(resolve=False):
        yield f"{prefix}{key!s}"
        if isinstance(value, DictConfig):
            yield from _keys(value, f"{prefix}{key!s}.")


def _check_kinds(files: DictConfig, config: DictConfig, parsed: Sequence[Any]) -> None:
    """Refuse a word where the files under configs/ have a number, and the like."""
    for override in parsed:
        key = override.key_or_group
        if override.is_delete() or key.split("@")[0] in _groups():
            continue
        before, after = (OmegaConf.select(c, key, throw_on_missing=False) for c in (files, config))
        for kinds, name in (
            ((bool,), "true or false"),
            ((int, float), "a number"),
            ((ListConfig,), "a list such as [a,b]"),
            ((DictConfig,), "a group of keys"),
        ):
            if isinstance(before, kinds):
                right = isinstance(after, kinds) and isinstance(after, bool) == (kinds == (bool,))
                if not right and after is not None:
                    raise InputError(f"{override.input_line}: {key} is {name}.")
                break
