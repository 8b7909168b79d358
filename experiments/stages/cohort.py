"""From a cohort's configuration to institutions whose signals are packed."""

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from filelock import FileLock
from omegaconf import DictConfig

from datamodules import public
from datamodules.errors import InputError, listing
from datamodules.manifest import find_manifests, read_manifest, target_of
from datamodules.recordings import RecordingLimits
from datamodules.simulation import simulate_cohort, with_common
from datamodules.splits import assign_splits, check_balance, check_leakage
from datamodules.store import Store, pack
from experiments.config import plain
from experiments.console import say

# Only a recording's signal is asked of every manifest; a target names its own column.
NEEDS = ("ecg_path",)


@dataclass(frozen=True)
class Site:
    """One institution, read, checked and packed.

    `exams`: the manifest's rows that are in the store, with split, target, row (in the store) and
    waveform. `flow`: how many exams came in and how many went where.
    """

    name: str
    exams: pd.DataFrame
    store: Store
    flow: dict[str, int]

    @cached_property
    def digest(self) -> str:
        """Of everything that training or testing on this institution depends on."""
        return self._digest("target")

    @cached_property
    def signals_digest(self) -> str:
        """Of everything that pretraining depends on: no label is."""
        return self._digest()

    def _digest(self, *columns: str) -> str:
        table = self.exams[["exam_id", "patient_id", "split", *columns]].to_csv(index=False)
        text = f"{self.name}\n{self.store.digest}\n{table}"
        return hashlib.sha256(text.encode()).hexdigest()


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
        return {
            name: _site(config, name, tables[name], root, workers)
            for name in [*wanted.development, *wanted.external]
        }


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


def _site(
    config: DictConfig, name: str, table: Path | pd.DataFrame, root: Path, workers: int
) -> Site:
    manifest = read_manifest(table, NEEDS) if isinstance(table, Path) else table
    if config.cohort.on_error not in ("fail", "skip"):
        raise InputError(f"cohort.on_error={config.cohort.on_error}: it is fail or skip.")
    target = target_of(manifest, config.target, **config.lvsd)
    store = pack(
        manifest,
        root,
        Path(config.cache) / "store",
        limits=RecordingLimits(**config.ecg.limits),
        workers=workers,
        on_error=config.cohort.on_error,
    )
    rows = store.rows_of(manifest["exam_id"])
    exams = manifest.assign(
        target=target,
        split=assign_splits(manifest["patient_id"], config.splits, config.seed),
        row=rows,
    )[rows >= 0]
    exams = exams.assign(waveform=store.index["waveform"].to_numpy()[exams["row"]])
    flow = {
        "in manifest": len(manifest),
        "left out": len(store.skipped),
        "packed": len(exams),
        "patients": exams["patient_id"].nunique(),
        "with target": int(exams["target"].notna().sum()),
        "positive": int(exams["target"].sum()),
    }
    if len(store.skipped):
        say(
            f"{name}: {len(store.skipped)} of {len(manifest)} recordings left out:\n"
            + listing([f"{r.exam_id}: {r.reason}" for r in store.skipped.itertuples()])
        )
    return Site(name, exams, store, flow)
