"""One launch: a parent run, the study's protocol, and the table at the end."""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from lightning_utilities.core.rank_zero import rank_zero_only

from datamodules.errors import InputError
from experiments.config import as_yaml
from experiments.console import print_table
from experiments.figures.study import titled
from experiments.plan import Plan, plan_of
from experiments.processes import Processes, StrayProcessError, rank_in_environment
from experiments.schema import Config
from experiments.stages.cohort import with_labels
from experiments.studies import JUDGING, TRAINING
from experiments.tracking import Tracking

# What the launch of a sweep's job is told by: the sweep's run, and which of its jobs it is.
SWEEP, JOB = "MULTISITE_ECG_SWEEP", "MULTISITE_ECG_JOB"
JOB_TAG = "sweep.job"

# Lightning announces hardware and hints that are no news here.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
warnings.filterwarnings("ignore", message="torch.distributed.nn.functional.all_gather is depr")
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")


def launch(config: Config, arguments: Sequence[str]) -> None:
    """Run the configured study; everything it makes is on one parent run, named at the end."""
    known = {**TRAINING, **JUDGING}
    if config.protocol not in known:
        raise InputError(f"protocol={config.protocol}: it is one of {', '.join(known)}.")
    config = with_labels(config)
    plan = plan_of(config) if config.models else None
    processes = _processes(config, plan)
    if processes is None:
        return
    # Lightning goes by what launchers call a rank, and would log nothing beside a stray one.
    rank_zero_only.rank = processes.rank  # type: ignore[attr-defined]
    tracking = Tracking(
        config.tracking.uri, config.tracking.artifacts, config.study, enabled=processes.first
    )
    tracking.command = shlex.join(["python", "-m", "experiments.run", *arguments])
    target = titled(config.target)
    about = {"study": config.study, "target": target, "seed": config.seed}
    if plan is not None:
        about |= {
            "cohort": config.cohort.source,
            "network": config.network.name,
            "baseline": config.baseline.name,
            "sampling_rate_hz": config.ecg.sampling_rate_hz,
            "labels": config.labels or "all",
        }
    sweep, job = os.environ.get(SWEEP), os.environ.get(JOB)
    with tracking.run(
        f"{config.study} {config.network.name} · {target}" if plan is not None else config.study,
        parent=sweep,
        tags=({JOB_TAG: job} if job else {})
        | {
            "stage": "launch",
            "command": tracking.command,
            "protocol": config.protocol,
            "mlflow.source.name": "experiments.run",
            "mlflow.source.type": "LOCAL",
        },
    ) as run:
        tracking.text(run, as_yaml(config), "config.yaml")
        tracking.params(run, about)
        if plan is None:
            outcome = JUDGING[config.protocol](config, tracking, run)
        else:
            lab = plan.lab(config, tracking, processes)
            outcome = TRAINING[config.protocol](config, plan, lab, run)
    if processes.first:
        print_table(outcome.title, outcome.table)
        if outcome.caption:
            print(outcome.caption)
        print(f"Browse it:  {tracking.ui_command}")
        print(f"Parent run: {run}")


def _processes(config: Config, plan: Plan | None) -> Processes | None:
    """The processes that go through this launch; None where this one has nothing to do in it."""
    rank, world, told = rank_in_environment()
    if plan is None:
        if rank:
            print(
                f"This is process {rank} of {world} ({told}), and the first one alone judges "
                "predictions. If it is alone, unset these variables.",
                file=sys.stderr,
            )
            return None
        return Processes()
    if rank and plan.models.compute.processes == 1:
        raise StrayProcessError(
            f"This is process {rank} of {world} ({told}), and trainer.devices="
            f"{config.trainer.devices} trainer.num_nodes={config.trainer.num_nodes} train in one. "
            "Unset these variables if this process is alone, or give the trainer what the "
            "launcher started."
        )
    trainer = config.trainer
    return Processes.of_launch(
        plan.models.compute.processes,
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
    )
