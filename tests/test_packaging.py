"""The wheel, installed beside no checkout: what it carries, and that its commands work anywhere."""

import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from places import REPOSITORY

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("configs", "datamodules", "experiments", "lightning_modules")
SCRIPTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]


def output_of(*command: str | Path, cwd: Path) -> str:
    # a PYTHONPATH would let the checkout in again
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a fresh environment with the wheel, and this one's packages but the project."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        shutil.copy(REPOSITORY / name, source)
    for name in PACKAGES:
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    wheels, environment = source / "dist", tmp_path_factory.mktemp("environment") / "venv"
    wheels.mkdir()
    output_of(sys.executable, "-c", BUILD, wheels, cwd=source)
    output_of(sys.executable, "-m", "venv", environment, cwd=source)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Folders named in a .pth are searched, but a .pth in them (an editable install's) is not read.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    bin_folder = environment / "bin"
    output_of(
        *(bin_folder / "python", "-m", "pip", "install", "--quiet"),
        *("--no-index", "--no-deps", *wheels.glob("*.whl")),
        cwd=source,
    )
    return bin_folder


def test_the_wheel_carries_every_config(installed: Path, tmp_path: Path) -> None:
    found = output_of(
        *(installed / "python", "-c", "from experiments import config; print(config.CONFIGS)"),
        cwd=tmp_path,
    ).strip()
    assert Path(found).is_relative_to(installed.parent)
    carried = {path.relative_to(found) for path in Path(found).rglob("*.yaml")}
    configs = REPOSITORY / "configs"
    assert carried == {path.relative_to(configs) for path in configs.rglob("*.yaml")}
    assert len(carried) > 20


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_console_script_helps(installed: Path, tmp_path: Path, script: str) -> None:
    text = output_of(installed / script, "--help", cwd=tmp_path)
    assert "[NAME=VALUE ...]" in text
    assert list(tmp_path.iterdir()) == []


def test_a_launch_is_composed_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    text = output_of(installed / "multisite-ecg", "experiment=ph", "--config", cwd=tmp_path)
    assert re.search(r"^study: ph$", text, flags=re.MULTILINE)


def test_predictions_are_judged_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    target = draw.random(120) < 0.4
    pd.DataFrame(
        {
            "model": "theirs",
            "institution": "north",
            "split": "external",
            "patient_id": np.arange(120),
            "exam_id": np.arange(120),
            "target": target.astype(int),
            "probability": 1 / (1 + np.exp(0.5 - target - draw.normal(size=120))),
        }
    ).to_csv(tmp_path / "theirs.csv", index=False)
    output = output_of(
        *(installed / "multisite-ecg", "experiment=compare", "predictions=[theirs.csv]"),
        *("target=outcome", "statistics.resamples=50", "statistics.report_resamples=20"),
        cwd=tmp_path,
    )
    assert re.search(r"^\s*north\s+external\s+120\b", output, flags=re.MULTILINE), output
    assert list((tmp_path / "mlruns").rglob("report.html"))


def test_a_mistake_is_told_by_the_exit_status(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "multisite-ecg", "netwrk=vit_base"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Did you mean network?" in done.stderr) == (2, True), done.stderr
