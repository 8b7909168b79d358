"""What README and CONTRIBUTING tell a person to type is what the program takes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from places import REPOSITORY

from experiments.arguments import read_arguments as read_launch
from experiments.config import compose_config, compose_jobs, with_sweep
from experiments.predict import read_arguments

README = (REPOSITORY / "README.md").read_text().replace("\\\n", " ")
BLOCKS = re.findall(r"^```\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
QUOTED = re.findall(r"`([^`\n]+)`", README)
OWN = REPOSITORY / "tests" / "experiments" / "outside"  # stands for the DIR of --config-dir


def commands(program: str) -> list[list[str]]:
    """The arguments of each command of `program` in README's blocks and between backquotes."""
    lines = [line for block in BLOCKS for line in block.splitlines()] + QUOTED
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part)[1:] for part in parts if part.split(" ")[0] == program]


@pytest.mark.parametrize("arguments", commands("multisite-ecg"), ids=" ".join)
def test_readmes_launches_are_composed(arguments: list[str]) -> None:
    if "--config-dir" in arguments:
        arguments = [str(OWN) if argument == "DIR" else argument for argument in arguments]
    if "-m" in arguments:
        assert len(compose_jobs(with_sweep(read_launch(arguments)))) > 1
    elif arguments != ["--help"]:
        assert compose_config(arguments).study


def test_readme_shows_every_study() -> None:
    shown = {argument for command in commands("multisite-ecg") for argument in command}
    studies = {path.stem for path in (REPOSITORY / "configs" / "experiment").glob("*.yaml")}
    assert {f"experiment={study}" for study in studies - {"quickstart"}} <= shown


@pytest.mark.parametrize("arguments", commands("multisite-ecg-predict"), ids=" ".join)
def test_readmes_predictions_are_understood(arguments: list[str]) -> None:
    if arguments:
        assert read_arguments(arguments)["model"] == "MODEL"


def test_commits_are_checked_as_ci_checks_them() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]]
    checks = (REPOSITORY / ".ci" / "checks").read_text().splitlines()
    assert entries
    assert set(entries) <= set(checks)


def test_what_contributing_says_to_copy_is_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    named = set(
        re.findall(r"`((?:configs|datamodules|lightning_modules|experiments)/[^`]*)`", text)
    )
    missing = sorted(
        name for name in named if "mine" not in name and not Path(REPOSITORY, name).exists()
    )
    assert named
    assert missing == []
