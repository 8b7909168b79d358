"""One launch: a parent run, the study's protocol, and the table at the end."""

import logging
import re
import shlex
import warnings
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from datamodules.errors import InputError
from experiments.processes import is_first_process
from experiments.settings import check_settings
from experiments.stages.report import Outcome
from experiments.studies import PROTOCOLS
from experiments.tracking import Tracking

# Lightning announces hardware and hints that are no news here.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")


def launch(config: DictConfig, arguments: Sequence[str]) -> None:
    """Run the configured study; everything it makes is on one parent run, named at the end."""
    if config.protocol not in PROTOCOLS:
        raise InputError(f"protocol={config.protocol}: it is one of {', '.join(PROTOCOLS)}.")
    check_settings(config)
    tracking = Tracking(
        config.tracking.uri,
        config.tracking.artifacts,
        config.study,
        enabled=is_first_process(),
    )
    # An address may hold a password, and a tag is for all to see.
    told = [re.sub(r"(?<=://)[^/@]*@", "", argument) for argument in arguments]
    tracking.command = shlex.join(["python", "-m", "experiments.run", *told])
    trains = bool(config.models)
    about = {"study": config.study, "target": config.target, "seed": config.seed}
    if trains:
        about |= {
            "cohort": config.cohort.source,
            "network": config.network.name,
            "baseline": config.baseline.name,
            "sampling_rate_hz": config.ecg.sampling_rate_hz,
        }
    with tracking.run(
        f"{config.study} {config.network.name} · {config.target}" if trains else config.study,
        tags={
            "stage": "launch",
            "command": tracking.command,
            "protocol": config.protocol,
            "mlflow.source.name": "experiments.run",
            "mlflow.source.type": "LOCAL",
        },
    ) as run:
        tracking.text(run, OmegaConf.to_yaml(config), "config.yaml")
        tracking.params(run, about)
        outcome = PROTOCOLS[config.protocol](config, tracking, run)
    if is_first_process():
        _print(outcome)
        print(f"Browse it:  {tracking.ui_command}")
        print(f"Parent run: {run}")


def _print(outcome: Outcome) -> None:
    shown = Table(title=outcome.title, box=box.SIMPLE_HEAD)
    for number, column in enumerate(outcome.table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in outcome.table.itertuples(index=False):
        shown.add_row(*map(str, row))
    # Wide enough for every column, also where the output goes to a file.
    Console(width=max(100, Console().width, 24 * (len(outcome.table.columns) + 1))).print(shown)
    if outcome.caption:
        print(outcome.caption)
