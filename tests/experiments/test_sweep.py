"""Sweeps and shell completion by the real command line."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from places import REPOSITORY
from test_compare import table

JUDGED = ("experiment=compare", "statistics.resamples=50", "statistics.report_resamples=20")


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m experiments.run -m ...` in a folder of its own, with all defaults."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.run", "-m", *JUDGED, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        timeout=600,
        check=False,
    )


def runs(folder: Path) -> tuple[Run, list[Run], MlflowClient]:
    """The sweep's run and those right below it, by their jobs."""
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("compare")
    assert experiment is not None
    every = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in every if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in every if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, sorted(below, key=lambda run: run.data.tags["sweep.job"]), client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table("cnn", 1.0, 1).to_csv(tmp_path / "ours.csv", index=False)
    return tmp_path


def test_a_sweep_is_one_run_with_a_run_a_job(folder: Path) -> None:
    done = launch(folder, "predictions=[ours.csv]", "seed=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    parent, jobs, client = runs(folder)
    assert done.stdout.splitlines()[-1] == f"Parent run: {parent.info.run_id}"
    assert parent.data.tags["command"].endswith(
        "-m " + " ".join(JUDGED) + " 'predictions=[ours.csv]' seed=1,2"
    )
    assert [run.data.params["seed"] for run in jobs] == ["1", "2"]
    assert {run.data.tags["stage"] for run in jobs} == {"launch"}
    assert {run.info.status for run in [parent, *jobs]} == {"FINISHED"}
    # Each job's own child runs stay its own.
    assert len(client.search_runs([parent.info.experiment_id])) == 1 + 2 * 2
    told = pd.read_csv(client.download_artifacts(parent.info.run_id, "sweep.csv"))
    assert told["job"].tolist() == [1, 2]
    assert told["seed"].tolist() == [1, 2]
    assert told["run"].tolist() == [run.info.run_id for run in jobs]
    auroc = jobs[0].data.metrics["test/auroc/all-external/cnn"]
    assert told["AUROC cnn"].tolist() == [round(auroc, 3)] * 2
    together = pd.read_csv(client.download_artifacts(parent.info.run_id, "aurocs.csv"))
    pooled = together[together["measure"] == "pooled AUROC"]
    assert pooled["seed"].tolist() == [1, 2]
    assert pooled["auroc"].tolist() == pytest.approx([auroc, auroc])
    note = parent.data.tags["mlflow.note.content"]
    assert all(run.info.run_id in note and run.info.run_id in done.stdout for run in jobs)
    assert {path.name for path in folder.iterdir()} == {"ours.csv", "mlruns", ".cache"}


def test_a_job_that_fails_is_named_and_the_others_go_on(folder: Path) -> None:
    done = launch(folder, "predictions=[none.csv],[ours.csv]")
    assert done.returncode == 1
    assert "none.csv" in done.stderr
    assert "error: job 1 of 2 failed" in done.stderr
    parent, jobs, client = runs(folder)
    assert parent.info.status == "FAILED"
    assert [run.info.status for run in jobs] == ["FAILED", "FINISHED"]
    told = pd.read_csv(client.download_artifacts(parent.info.run_id, "sweep.csv"))
    assert told["result"].tolist() == ["failed", "done"]


def test_bash_completes_keys_and_options(tmp_path: Path) -> None:
    command = tmp_path / "multisite-ecg"  # as an installer writes it
    command.write_text(f"#!{sys.executable}\nfrom experiments.cli import run\n\nrun()\n")
    command.chmod(0o755)
    (tmp_path / "own" / "network").mkdir(parents=True)
    (tmp_path / "own" / "network" / "mine.yaml").write_text("name: mine\n")
    script = """
eval "$(multisite-ecg --shell-completion install=bash)"
complete -p multisite-ecg > /dev/null || exit 3
for line in "network=vit_m" "finetune.max" "--config-dir own network=mi"; do
    COMP_LINE="multisite-ecg $line"; words=($COMP_LINE)
    COMP_POINT=${#COMP_LINE}; COMP_CWORD=$((${#words[@]} - 1))
    hydra_bash_completion
    echo "${COMPREPLY[*]}"
done
"""
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "network=vit_micro",
        "finetune.max_epochs= finetune.max_steps=",
        "network=mine",
    ]
