"""The real command line, with networks so small that a launch takes seconds."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
from forked import run_forked
from mlflow import MlflowClient
from places import REPOSITORY

NUMBERS = count()
TINY_COHORT = (
    "cohort.every_institution.exams=30",
    "cohort.every_institution.lvsd_prevalence=0.3",
    "cohort.institutions.quillhaven={exams: 120, echo_fraction: 0.8, lvsd_prevalence: 0.3}",
)
TINY = (
    "network=vit_micro",
    "network@baseline=resnet1d_small",
    "pretrain=mae_small",
    "network.settings={width: 16, depth: 1, heads: 2}",
    "baseline.settings.widths=[8]",
    "pretrain.decoder={width: 16, depth: 1, heads: 2}",
    "pretrain.max_steps=4",
    "pretrain.validate_every_steps=2",
    "finetune.max_steps=8",
    "finetune.from_pretrained.max_steps=8",
    "finetune.validate_every_steps=4",
    "statistics.resamples=50",
    "statistics.report_resamples=20",
)
TINY_PH_COHORT = (
    "cohort.every_institution.exams=40",
    "cohort.institutions.quillhaven.exams=120",
    "cohort.institutions.ambervault.exams=80",
)
TINY_FILMS = (
    "cxr.size=32",
    "cxr_finetune.max_steps=6",
    "cxr_finetune.validate_every_steps=3",
    "cxr_network.settings.model=resnet10t",
)
TINY_PH = (
    "network@baseline=resnet1d_small",
    "network.settings.widths=[8]",
    "baseline.settings.widths=[8]",
    "finetune.max_steps=8",
    "finetune.from_pretrained.max_steps=8",
    "finetune.validate_every_steps=4",
    *TINY_FILMS,
    "fusion.folds=2",
    "fusion.max_epochs=20",
    "statistics.resamples=50",
    "statistics.report_resamples=20",
)


@dataclass(frozen=True)
class Launch:
    """A finished launch: its exit status, what it printed, and where it tracked."""

    status: int
    output: str
    errors: str
    uri: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def run(self) -> str:
        """The parent run's id, from the last line."""
        found = re.fullmatch(r"Parent run: ([0-9a-f]{32})", self.output.splitlines()[-1])
        assert found, self.output + self.errors
        return found[1]

    def artifact(self, path: str) -> Path:
        return Path(self.client.download_artifacts(self.run, path))

    @property
    def predictions(self) -> pd.DataFrame:
        return pd.read_parquet(self.artifact("predictions.parquet"))

    @property
    def summary(self) -> list[dict[str, Any]]:
        return json.loads(self.artifact("summary.json").read_text())

    @property
    def children(self) -> list[Any]:
        """The parent's own child runs."""
        parent = self.client.get_run(self.run)
        return self.client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{self.run}'"
        )


def launch(folder: Path, *overrides: str, cache: Path | None = None, forked: bool = True) -> Launch:
    """`python -m experiments.run` from the repository, everything it writes in `folder`.

    Several processes, and launches that are not `forked`, start as a person starts them.
    """
    uri = f"sqlite:///{folder}/mlflow.db"
    arguments = list(overrides)
    for key, value in {
        "tracking.uri": uri,
        "tracking.artifacts": folder / "artifacts",
        "cache": cache or folder / "cache",
    }.items():
        if not any(override.startswith(f"{key}=") for override in overrides):
            arguments.append(f"{key}={value}")
    if forked and not any(
        override.startswith(("trainer.devices=", "-m")) for override in overrides
    ):
        output = folder / "printed" / str(next(NUMBERS))
        return Launch(*run_forked(arguments, REPOSITORY, output, 600), uri)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
        check=False,
    )
    return Launch(done.returncode, done.stdout, done.stderr, uri)


def check_needs_nothing_else(html: str) -> None:
    """No script, no address of the network."""
    assert "<script" not in html
    assert not re.search(r"url\(|@import|https?:", html)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
