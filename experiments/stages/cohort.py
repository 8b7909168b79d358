"""From a cohort's configuration to institutions whose signals are packed."""

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from omegaconf import DictConfig

from datamodules import public
from datamodules.errors import InputError, listing
from datamodules.image_store import ImageStore, pack_images
from datamodules.manifest import find_manifests, read_manifest, target_of
from datamodules.recordings import RecordingLimits
from datamodules.simulation import simulate_cohort, with_common
from datamodules.splits import assign_splits, check_balance, check_leakage
from datamodules.store import Store, pack
from datamodules.transforms import BNPPreprocessing, CXRPreprocessing
from experiments.config import plain
from experiments.console import say
from lightning_modules.checkpoint import CLASSIFIERS

# Where an exam's input stands in a manifest; of BNP the configuration says it.
PATHS = {"ecg": "ecg_path", "cxr": "cxr_path"}
FILES = {"ecg": "recordings", "cxr": "chest X-rays"}
BLOOD = ["bnp_pg_ml", "nt_probnp_pg_ml", "age_years", "sex"]


@dataclass(frozen=True)
class Site:
    """One institution, read, checked and packed.

    `exams`: the manifest's rows that have an input of the study, with split, target and, for each
    input, its row in the store (`ecg_row`, `cxr_row`; `bnp_row` is 0), -1 where the exam lacks it.
    `inputs` are the study's, any of which an exam may lack where there are several; `stores` holds
    the packed signals and films, by input. `flow`: how many exams came in and how many went where.
    """

    name: str
    exams: pd.DataFrame
    inputs: tuple[str, ...]
    stores: dict[str, Store | ImageStore]
    flow: dict[str, int]

    def exams_with(self, input: str) -> pd.DataFrame:
        """The exams that have the input, with `row` in its store."""
        row = self.exams[f"{input}_row"]
        return self.exams.assign(row=row)[row >= 0]

    def digest_of(self, input: str, *columns: str) -> str:
        """Of everything that a model of this input depends on here, with `columns` as labels."""
        exams = self.exams_with(input)
        values = [] if input in PATHS else [column for column in BLOOD if column in exams]
        table = exams[["exam_id", "patient_id", "split", *values, *columns]].to_csv(index=False)
        content = self.stores[input].digest if input in self.stores else ""
        return hashlib.sha256(f"{self.name}\n{content}\n{table}".encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Of everything that training or testing on this institution depends on."""
        text = "".join(self.digest_of(input, "target") for input in self.inputs)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def left_out(self) -> pd.DataFrame:
        """institution, exam_id, path and reason of each file that could not be used."""
        tables = [
            store.skipped.rename(columns={PATHS[input]: "path"})
            for input, store in self.stores.items()
        ]
        columns = ["exam_id", "path", "reason"]
        table = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
        return table[columns].assign(institution=self.name)


@dataclass(frozen=True)
class Roles:
    """Who is trained on and who is only tested on."""

    development: tuple[str, ...]
    external: tuple[str, ...]


def prepare(config: DictConfig) -> dict[str, Site]:
    """Simulate if need be, read and check every manifest in play, and pack what is not packed.

    Raises InputError for whatever a person has to mend.
    """
    cache = Path(config.cache)
    workers = config.workers or os.cpu_count() or 1
    cache.mkdir(parents=True, exist_ok=True)
    # Other processes of the same launch wait here, and then find everything done.
    with FileLock(cache / "cohort.lock"):
        root, tables = _tables(config, workers)
        wanted = roles_of(config, list(tables))
        sites = {
            name: _site(config, name, tables[name], root, workers)
            for name in [*wanted.development, *wanted.external]
        }
    for column in config.statistics.subgroups:
        if not any(column in site.exams for site in sites.values()):
            raise InputError(f"statistics.subgroups: no manifest has a column {column!r}.")
    return sites


def check_cohort(config: DictConfig, development: Sequence[Site], external: Sequence[Site]) -> None:
    """Raise InputError, before anything is trained, for a leak or a split that lacks a class."""
    tables = [
        *(site.exams.assign(role="development") for site in development),
        *(site.exams.assign(role="external") for site in external),
    ]
    check_leakage(pd.concat(tables))
    if not external and not config.splits.test:
        raise InputError(
            "Nothing is left to test on: name cohort.external institutions, or give splits.test a "
            "share of the development patients."
        )
    learned_from = pd.concat([site.exams for site in development])
    check_balance(
        learned_from,
        learned_from["target"].rename(config.target),
        both_classes_in=("train", "val"),
    )


def roles_of(config: DictConfig, institutions: Sequence[str]) -> Roles:
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
    config: DictConfig, workers: int
) -> tuple[Path, Mapping[str, Path] | Mapping[str, pd.DataFrame]]:
    """The cohort's folder, and each institution's manifest: its file, or a table made of one."""
    cohort = config.cohort
    root = Path(cohort.root)
    if cohort.source == "public":
        return root, public.manifests(plain(cohort.sources), root)
    if cohort.source == "simulated":
        settings = simulated_institutions(config)
        # Settings that differ are another cohort, in a folder of its own.
        key = hashlib.sha256(repr((cohort.seed, sorted(settings.items()))).encode()).hexdigest()
        root = root / key[:12]
        simulate_cohort(settings, root, seed=cohort.seed, workers=workers)
        say(f"cohort: simulated, in {root}")
    return root, find_manifests(root)


def simulated_institutions(config: DictConfig) -> dict[str, dict[str, object]]:
    """Each simulated institution's settings, common ones filled in."""
    cohort = plain(config.cohort)
    return with_common(cohort["every_institution"], cohort["institutions"])


def inputs_of(config: DictConfig) -> tuple[str, ...]:
    """What the study's models read, in their order: ecg, cxr, bnp."""
    return tuple(
        dict.fromkeys(CLASSIFIERS[model.classifier].input for model in config.models.values())
    )


def _site(
    config: DictConfig, name: str, table: Path | pd.DataFrame, root: Path, workers: int
) -> Site:
    if config.cohort.on_error not in ("fail", "skip"):
        raise InputError(f"cohort.on_error={config.cohort.on_error}: it is fail or skip.")
    inputs = inputs_of(config)
    bnp = BNPPreprocessing(config.bnp.marker, config.bnp.age, config.bnp.sex)
    columns = {**PATHS, "bnp": config.bnp.marker}
    if isinstance(table, Path):
        # An exam is an ECG with what belongs to it: where nothing but ECGs is read, each has one.
        manifest = read_manifest(table, ("ecg_path",) if inputs == ("ecg",) else ())
    else:
        manifest = table
    exams = manifest.assign(
        target=target_of(manifest, config.target, lvsd=config.lvsd, ph=config.ph),
        split=assign_splits(manifest["patient_id"], config.splits, config.seed),
    )
    stores: dict[str, Store | ImageStore] = {}
    for input in inputs:
        if input == "bnp":
            known = ~np.isnan(bnp.features(manifest)).any(axis=1)
            exams["bnp_row"] = np.where(known, 0, -1)
            continue
        exams[f"{input}_row"] = -1
        if columns[input] not in manifest or manifest[columns[input]].isna().all():
            continue
        store = stores[input] = _pack(config, input, manifest, root, workers)
        rows = store.rows_of(manifest["exam_id"])
        exams[f"{input}_row"] = rows
        identity = "waveform" if input == "ecg" else "image"
        digests = store.index[identity].set_axis(range(len(store)))
        exams[identity] = digests.reindex(rows).to_numpy()
    has = pd.DataFrame({input: exams[f"{input}_row"] >= 0 for input in inputs})
    exams = exams[has.any(axis=1)]
    if exams.empty:
        wanted = " or ".join(columns[input] for input in inputs)
        raise InputError(
            f"{name}: no exam has a usable {wanted}. Fill in the column, or leave the institution "
            "out (cohort.development, cohort.external)."
        )
    flow = {
        "in manifest": len(manifest),
        "left out": sum(len(store.skipped) for store in stores.values()),
        "packed": len(exams),
        "patients": exams["patient_id"].nunique(),
        "with target": int(exams["target"].notna().sum()),
        "positive": int(exams["target"].sum()),
    }
    if len(inputs) > 1:
        flow |= {f"with {input}": int(has[input].sum()) for input in inputs}
        flow["with all"] = int(has.all(axis=1).sum())
    for input, store in stores.items():
        if len(store.skipped):
            say(
                f"{name}: {len(store.skipped)} of {int(manifest[columns[input]].notna().sum())} "
                f"{FILES[input]} left out:\n"
                + listing([f"{r.exam_id}: {r.reason}" for r in store.skipped.itertuples()])
            )
    return Site(name, exams, inputs, stores, flow)


def _pack(
    config: DictConfig, input: str, manifest: pd.DataFrame, root: Path, workers: int
) -> Store | ImageStore:
    exams = manifest[manifest[PATHS[input]].notna()]
    where, on_error = Path(config.cache) / "store", config.cohort.on_error
    if input == "ecg":
        limits = RecordingLimits(**config.ecg.limits)
        return pack(exams, root, where, limits=limits, workers=workers, on_error=on_error)
    preprocessing = CXRPreprocessing(config.cxr.size)
    return pack_images(
        exams, root, where, preprocessing=preprocessing, workers=workers, on_error=on_error
    )
