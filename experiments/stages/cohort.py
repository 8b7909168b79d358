"""From a cohort's configuration to institutions whose signals are packed."""

import difflib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock

from datamodules import public
from datamodules.errors import InputError, listing
from datamodules.inputs.input import Input
from datamodules.manifest import Column, find_manifests, read_manifest
from datamodules.simulation import GENERATOR, simulate_cohort, with_common
from datamodules.splits import assign_splits, check_balance, check_leakage
from datamodules.store import Store, pack
from experiments.config import plain
from experiments.console import say
from experiments.schema import Config
from experiments.stages.exams import TARGET, Site
from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Roles:
    """Who is trained on and who is only tested on."""

    development: tuple[str, ...]
    external: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of which exams: the study's inputs, its task, and how a manifest's rows get
    their target."""

    inputs: Mapping[str, Input]
    task: Task
    target_of: Callable[[pd.DataFrame], pd.Series]
    columns: Mapping[str, Column]  # of all inputs that are known, the study's or not


def prepare(config: Config, question: Question) -> dict[str, Site]:
    """Simulate if need be, read and check every manifest in play, and pack what is not packed.

    Raises InputError for whatever a person has to mend.
    """
    cache = Path(config.cache)
    workers = config.workers or os.cpu_count() or 1
    cache.mkdir(parents=True, exist_ok=True)
    # Another launch on the same cache waits here, and then finds everything done.
    with FileLock(cache / "cohort.lock"):
        root, tables = _tables(config, workers)
        wanted = roles_of(config, list(tables))
        sites = {
            name: _site(config, question, name, tables[name], root, workers)
            for name in [*wanted.development, *wanted.external]
        }
    for column in config.statistics.subgroups:
        if not any(column in site.exams for site in sites.values()):
            raise InputError(f"statistics.subgroups: no manifest has a column {column!r}.")
    for name, input in question.inputs.items():
        if not any((site.exams[f"{name}_row"] >= 0).any() for site in sites.values()):
            columns = {str(column) for site in sites.values() for column in site.exams}
            near = [difflib.get_close_matches(c, columns, 1) for c in input.reads]
            hints = [found[0] for found in near if found and found[0] not in input.reads]
            near_columns = f"There are columns called {', '.join(hints)}. " if hints else ""
            raise InputError(
                f"inputs.{name}: no exam of any institution has {' and '.join(input.reads)}. "
                f"{near_columns}"
                "Fill the columns in, or leave out the models that read it."
            )
    return sites


def check_cohort(
    config: Config, question: Question, development: Sequence[Site], external: Sequence[Site]
) -> None:
    """Raise InputError, before anything is trained, for a leak or a split that lacks a class."""
    tables = [
        *(site.exams.assign(role="development") for site in development),
        *(site.exams.assign(role="external") for site in external),
    ]
    check_leakage(pd.concat(tables), development[0].copies)
    if not external and not config.splits.test:
        raise InputError(
            "Nothing is left to test on: name cohort.external institutions, or give splits.test a "
            "share of the development patients."
        )
    learned_from = pd.concat([site.exams for site in development])
    for label in question.task.classed:
        check_balance(
            learned_from,
            learned_from[TARGET].rename(label),
            both_classes_in=("train", "val"),
        )


def roles_of(config: Config, institutions: Sequence[str]) -> Roles:
    """The institutions' roles; for leave-site-out, those that take part (named ones, or all).

    Raises InputError for an unknown institution, one in both roles, or no development one.
    """
    development, external = config.cohort.development, config.cohort.external
    for key, names in (("development", development), ("external", external)):
        for name in names or ():
            if name not in institutions:
                near = difflib.get_close_matches(str(name), institutions, 1)
                raise InputError(
                    f"cohort.{key}: there is no institution {name!r}. "
                    f"{f'Did you mean {near[0]}? ' if near else ''}"
                    f"There are {', '.join(institutions)}."
                )
    if config.protocol == "leave_site_out":
        named = [*(development or ()), *(external or ())]
        return Roles(tuple(dict.fromkeys(named or institutions)), ())
    if not development:
        raise InputError(
            "Name the institutions to train on: cohort.development=[a,b]. "
            f"There are {', '.join(institutions)}."
        )
    if external is None:
        external = [name for name in institutions if name not in development]
    both = sorted(set(development) & set(external))
    if both:
        raise InputError(
            f"{', '.join(both)}: an institution can't be both cohort.development and "
            "cohort.external. Take it out of one."
        )
    return Roles(tuple(development), tuple(external))


def _tables(
    config: Config, workers: int
) -> tuple[Path, Mapping[str, Path] | Mapping[str, pd.DataFrame]]:
    """The cohort's folder, and each institution's manifest: its file, or a table made of one."""
    cohort = config.cohort
    root = Path(cohort.root)
    if cohort.source == "public":
        return root, public.manifests(plain(cohort.sources), root)
    if cohort.source == "simulated":
        settings = simulated_institutions(config)
        # Settings that differ are another cohort, in a folder of its own.
        key = hashlib.sha256(
            repr((GENERATOR, cohort.seed, sorted(settings.items()))).encode()
        ).hexdigest()
        root = root / key[:12]
        simulate_cohort(settings, root, seed=cohort.seed, workers=workers)
        say(f"cohort: simulated, in {root}")
    return root, find_manifests(root)


def simulated_institutions(config: Config) -> dict[str, dict[str, object]]:
    """Each simulated institution's settings, common ones filled in."""
    cohort = plain(config.cohort)
    return with_common(cohort["every_institution"], cohort["institutions"])


def _site(
    config: Config,
    question: Question,
    name: str,
    table: Path | pd.DataFrame,
    root: Path,
    workers: int,
) -> Site:
    inputs, manifest = question.inputs, table
    if isinstance(manifest, Path):
        # An exam is a file with what belongs to it: where nothing but such files is read, each has
        # one.
        alone = next(iter(inputs.values())) if len(inputs) == 1 else None
        needs = alone.reads if alone is not None and alone.contents is not None else ()
        manifest = read_manifest(manifest, question.columns, needs)
    exams = manifest.assign(
        target=question.target_of(manifest),
        split=assign_splits(manifest["patient_id"], dict(config.splits), config.seed),
    )
    stores: dict[str, Store] = {}
    for key, input in inputs.items():
        known, contents = input.known(manifest), input.contents
        exams[f"{key}_row"] = known.astype(int) - 1
        if contents is None:
            continue
        exams[f"{key}_values"] = None
        if not known.any():
            continue
        store = stores[key] = pack(
            contents,
            manifest[known],
            root,
            Path(config.cache) / "store",
            workers=workers,
            on_error=config.cohort.on_error,
        )
        rows = store.rows_of(manifest["exam_id"])
        exams[f"{key}_row"] = rows
        digests = store.index["values"].set_axis(range(len(store)))
        exams[f"{key}_values"] = digests.reindex(rows).to_numpy()
    has = pd.DataFrame({key: exams[f"{key}_row"] >= 0 for key in inputs})
    exams = exams[has.any(axis=1)]
    if exams.empty:
        wanted = " or ".join(" and ".join(input.reads) for input in inputs.values())
        raise InputError(
            f"{name}: no exam has a usable {wanted}. Fill in the column, or leave the institution "
            "out (cohort.development, cohort.external)."
        )
    flow = {
        "in manifest": len(manifest),
        "left out": sum(len(store.skipped) for store in stores.values()),
        "packed": len(exams),
        "patients": exams["patient_id"].nunique(),
        "with target": int(exams[TARGET].notna().sum()),
        "positive": int(exams[TARGET].sum()),
    }
    if len(inputs) > 1:
        flow |= {f"with {key}": int(has[key].sum()) for key in inputs}
        flow["with all"] = int(has.all(axis=1).sum())
    for key, store in stores.items():
        if len(store.skipped):
            contents = inputs[key].contents
            say(
                f"{name}: {len(store.skipped)} of {len(store) + len(store.skipped)} "
                f"{contents.files if contents else key} left out:\n"
                + listing([f"{r.exam_id}: {r.reason}" for r in store.skipped.itertuples()])
            )
    return Site(name, exams, inputs, stores, flow)
