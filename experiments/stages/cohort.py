"""From a cohort's configuration to institutions whose signals are packed."""

import difflib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

import pandas as pd
from filelock import FileLock

from datamodules import public
from datamodules.errors import InputError, listing
from datamodules.inputs.input import Input
from datamodules.manifest import Column, find_manifests, read_manifest
from datamodules.public import ptbxl
from datamodules.simulation import GENERATOR, simulate_cohort, with_common
from datamodules.splits import assign_splits, check_balance, check_leakage, stated_splits
from datamodules.store import Store, pack
from experiments.config import plain
from experiments.console import say
from experiments.evaluation.predictions import TEST, TRAIN, VAL
from experiments.schema import Config
from experiments.stages.exams import Site, target_column
from lightning_modules.tasks.task import Task

FEWEST_FOR_UNIT = 5  # exams of an institution whose unit is compared


@dataclass(frozen=True)
class Roles:
    """Who is trained on and who is only tested on."""

    development: tuple[str, ...]
    external: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of which exams: the study's inputs, its task, and how a manifest's rows get
    the target of a label."""

    inputs: Mapping[str, Input]
    task: Task
    target_of: Callable[[pd.DataFrame, str], pd.Series]
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
        found = _manifests(config, workers)
        wanted = roles_of(config, list(found.tables))
        sites = {
            name: replace(
                _site(config, question, name, found, name in wanted.development, workers),
                notes=found.notes,
                excerpt=found.excerpt,
            )
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
    learned_from = pd.concat([site.exams for site in development])
    column = _column_of_splits(config)
    if not external and (
        not config.splits.test if column is None else TEST not in set(learned_from["split"])
    ):
        remedy = (
            "give splits.test a share of the development patients"
            if column is None
            else f"give development exams the split {TEST} in the column {column}"
        )
        raise InputError(
            f"Nothing is left to test on: name cohort.external institutions, or {remedy}."
        )
    for input in question.inputs:
        having = learned_from[learned_from[f"{input}_row"] >= 0]
        check_learnable(having, question.task, f", {input}" if len(question.inputs) > 1 else "")
    if not question.task.classed:
        for label in question.task.labels:
            _check_unit(label, [*development, *external])


def check_learnable(exams: pd.DataFrame, task: Task, where: str = "") -> None:
    """Raise InputError where development `exams` have nothing to learn a label from, or to validate
    by. `where` follows a label in messages.

    Of several yes-or-no labels each needs both classes in training, and one of them in validation.
    """
    if not task.classed:
        for label in task.labels:
            _check_numbers(exams, label, where)
        return
    targets = {
        label: exams[target_column(label)].rename(f"{label}{where}") for label in task.labels
    }
    for target in targets.values():
        check_balance(exams, target, both_classes_in=(TRAIN,))
    validated = exams["split"] == VAL
    both = [label for label, target in targets.items() if target[validated].nunique() == 2]
    if not both:
        check_balance(exams, next(iter(targets.values())), both_classes_in=(TRAIN, VAL))


def _check_numbers(exams: pd.DataFrame, label: str, where: str) -> None:
    target = exams[target_column(label)]
    learned = target[exams["split"] == TRAIN].dropna()
    if learned.nunique() < 2:
        held = f"one value, {learned.iloc[0]:g}" if len(learned) else "no value"
        raise InputError(
            f"{label}{where}: the {len(learned)} training exams of which it is known have {held}, "
            "and a model learns from differences. Choose another target, or development "
            "institutions where it varies."
        )
    if not target[exams["split"] == VAL].notna().any():
        raise InputError(
            f"{label}{where}: no validation exam has a value to choose the epoch by. Use more "
            "exams of which it is known, or other splits: their fractions, the seed, or the column "
            "that states them."
        )


def _check_unit(label: str, sites: Sequence[Site]) -> None:
    """Raise InputError where two institutions' numbers are so far apart that they can't be of one
    unit: nine tenths of either have nothing in common, and their medians differ fivefold."""
    known = {site.name: site.exams[target_column(label)].dropna() for site in sites}
    spread = {
        name: values.quantile([0.05, 0.5, 0.95]).to_list()
        for name, values in known.items()
        if len(values) >= FEWEST_FOR_UNIT
    }
    for (one, (_, low, low_end)), (other, (high_start, high, _)) in permutations(spread.items(), 2):
        if 0 < 5 * low <= high and low_end < high_start:
            raise InputError(
                f"target={label}: half of {one}'s values are below {low:g}, and half of {other}'s "
                f"above {high:g}: are they in one unit? Write the same unit in both manifests."
            )


def roles_of(config: Config, institutions: Sequence[str]) -> Roles:
    """The institutions' roles; for leave-site-out, those that take part (named ones, or all).

    Raises InputError for an unknown institution, one in both roles, or no development one.
    """
    cohort = config.cohort
    left_out = public.absent(cohort.sources, Path(cohort.root)) if cohort.source == "public" else []
    development, external = (
        None if names is None else [name for name in names if name not in left_out]
        for names in (cohort.development, cohort.external)
    )
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


@dataclass(frozen=True)
class _Manifests:
    """The cohort's folder, and each institution's manifest: its file, or a table made of one."""

    root: Path
    tables: Mapping[str, Path] | Mapping[str, pd.DataFrame]
    notes: Sequence[str] = field(default_factory=tuple)
    excerpt: str = ""


def with_labels(config: Config) -> Config:
    """The configuration with the labels that its target stands for, where the cohort has sets of
    them; InputError, as `ptbxl.labels_of`.
    """
    cohort = config.cohort
    if cohort.source != "ptbxl":
        return config
    labels = ptbxl.labels_of(Path(cohort.root), cohort.asked)
    return config.model_copy(update={"target": list(labels.names)})


def _manifests(config: Config, workers: int) -> _Manifests:
    cohort = config.cohort
    root = Path(cohort.root)
    if cohort.source == "public":
        left_out = public.absent(cohort.sources, root)
        notes = [f"Not at hand, and left out: {', '.join(left_out)}."] if left_out else []
        for note in notes:
            say(f"cohort: {note}")
        return _Manifests(root, public.manifests(plain(cohort.sources), root), notes)
    if cohort.source == "ptbxl":
        made = ptbxl.benchmark(root, cohort.asked, sampling_rate_hz=cohort.sampling_rate_hz)
        for note in made.notes:
            say(f"{ptbxl.INSTITUTION}: {note}")
        return _Manifests(root, {ptbxl.INSTITUTION: made.exams}, made.notes, made.labels.excerpt)
    if cohort.source == "simulated":
        settings = simulated_institutions(config)
        # Settings that differ are another cohort, in a folder of its own.
        key = hashlib.sha256(
            repr((GENERATOR, cohort.seed, sorted(settings.items()))).encode()
        ).hexdigest()
        root = root / key[:12]
        simulate_cohort(settings, root, seed=cohort.seed, workers=workers)
        say(f"cohort: simulated, in {root}")
    return _Manifests(root, find_manifests(root))


def _column_of_splits(config: Config) -> str | None:
    """The manifests' column that has the splits, if one has."""
    return ptbxl.SPLIT if config.cohort.source == "ptbxl" else config.splits.column


def simulated_institutions(config: Config) -> dict[str, dict[str, object]]:
    """Each simulated institution's settings, common ones filled in."""
    cohort = plain(config.cohort)
    return with_common(cohort["every_institution"], cohort["institutions"])


def _site(
    config: Config,
    question: Question,
    name: str,
    found: _Manifests,
    develops: bool,
    workers: int,
) -> Site:
    inputs, root, manifest = question.inputs, found.root, found.tables[name]
    source = f"{name} in {root}"
    if isinstance(manifest, Path):
        source = str(manifest)
        # An exam is a file with what belongs to it: where nothing but such files is read, each has
        # one.
        alone = next(iter(inputs.values())) if len(inputs) == 1 else None
        needs = alone.reads if alone is not None and alone.contents is not None else ()
        manifest = read_manifest(manifest, question.columns, needs)
    labels, column = question.task.labels, _column_of_splits(config)
    exams = manifest.assign(
        **_targets(question, name, manifest),
        split=stated_splits(manifest, column, source)
        if column is not None and develops
        else assign_splits(manifest["patient_id"], config.splits.shares, config.seed),
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
        "with target": int(exams[list(map(target_column, labels))].notna().any(axis=1).sum()),
    }
    if question.task.classed and len(labels) == 1:
        flow["positive"] = int(exams[target_column(labels[0])].sum())
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
    return Site(name, exams, inputs, stores, flow, labels)


def _targets(question: Question, name: str, manifest: pd.DataFrame) -> dict[str, pd.Series]:
    """Each label's target by its column; InputError where they don't go together."""
    task = question.task
    targets = {target_column(of): question.target_of(manifest, of) for of in task.labels}
    wrong = task.check(pd.DataFrame(targets).to_numpy(float))
    if wrong:
        unit = manifest.index.name or "row"
        lines = [f"{name}, {unit} {manifest.index[row]}: {why}" for row, why in wrong.items()]
        raise InputError(
            f"target=[{','.join(task.labels)}]: {len(lines)} exam(s) whose targets contradict each "
            f"other:\n{listing(lines)}"
        )
    return targets
