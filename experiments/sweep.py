"""A sweep: a launch for each combination of values, in one parent run, by Hydra's launchers, and
what they found together: AUROCs over seeds, and differences paired over them."""

import math
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from mlflow.entities import Run
from omegaconf import DictConfig

from datamodules.errors import InputError
from experiments.arguments import Arguments
from experiments.config import compose_jobs, configs, hydra_overrides, with_sweep
from experiments.console import print_table
from experiments.evaluation.predictions import ALL_EXTERNAL
from experiments.evaluation.repeats import SEED, TOLD, external_aurocs
from experiments.evaluation.summary import markdown_table
from experiments.figures.repeats import repeats_report, summary_tables
from experiments.figures.study import titled
from experiments.launch import JOB, JOB_TAG, SWEEP
from experiments.schema import Config
from experiments.stages.report import SIMULATED
from experiments.tracking import Tracking

LONGEST = 60  # characters of what is swept, in titles


class _JobsFailedError(Exception):
    pass


def sweep(wanted: Arguments) -> bool:
    """Run every job, whatever becomes of the others; whether all were done.

    Raises InputError, before any of them begins, for whatever is wrong with one of them.
    """
    wanted = with_sweep(wanted)
    jobs = compose_jobs(wanted)
    first = jobs[0][1]
    if any(config.tracking != first.tracking for _, config in jobs):
        raise InputError("tracking: a sweep's jobs are tracked to one place. Give one value.")
    tracking = Tracking(first.tracking.uri, first.tracking.artifacts, first.study, enabled=True)
    command = ["python", "-m", "experiments.run", *wanted.options, "-m", *wanted.overrides]
    swept = [_key(override) for override in jobs[0][0]]
    several = " ".join(o for o in wanted.overrides if _key(o) in swept)
    if len(several) > LONGEST:
        values = {key: {of_job[place] for of_job, _ in jobs} for place, key in enumerate(swept)}
        several = ", ".join(f"{len(of)} x {key}" for key, of in values.items())
    done = True
    try:
        with tracking.run(
            f"sweep {first.study} · {several}",
            tags={
                "stage": "sweep",
                "command": shlex.join(command),
                "mlflow.source.name": "experiments.run",
                "mlflow.source.type": "LOCAL",
            },
        ) as run:
            assert run is not None
            _launch(wanted, swept, run)
            studies = sorted({config.study for _, config in jobs})
            by_job = {
                str(job.data.tags.get(JOB_TAG)): job for job in tracking.children(run, studies)
            }
            table = _table(by_job, [of_job for of_job, _ in jobs])
            tracking.table(run, table, "sweep.csv")
            print_table(f"Jobs of the sweep {several}", table)
            tables = _together(tracking, run, jobs, by_job, several)
            for title, shown in tables.items():
                print_table(title, shown)
            note = [markdown_table(table)]
            note += [f"{title}\n\n{markdown_table(shown)}" for title, shown in tables.items()]
            tracking.tags(run, {"mlflow.note.content": "\n\n".join(reversed(note))})
            if (table["result"] != "done").any():
                raise _JobsFailedError  # marks the run as failed
    except _JobsFailedError:
        done = False
        failed = ", ".join(map(str, table.loc[table["result"] != "done", "job"]))
        print(
            f"error: job {failed} of {len(table)} failed; what it said stands above. Mend it and "
            "give the same command again: finished stages are reused.",
            file=sys.stderr,
        )
    print(f"Browse it:  {tracking.ui_command}")
    print(f"Parent run: {run}")
    return done


def _launch(wanted: Arguments, swept: Sequence[str], run: str) -> None:
    # A variable, not an argument: launchers that start jobs elsewhere hand the environment on.
    os.environ[SWEEP] = run
    try:
        with configs(wanted):
            running = GlobalHydra.instance().hydra
            assert running is not None
            job = partial(_run_job, wanted.options, swept)
            running.multirun("run", job, hydra_overrides(wanted), with_log_configuration=False)
    finally:
        del os.environ[SWEEP]


def _run_job(options: Sequence[str], swept: Sequence[str], config: DictConfig) -> int:
    """One job, called by Hydra's launcher, as a process of its own; its exit status.

    A launch owns its process: its ranks are started by its command, its seeds and its memory are
    nobody else's, and a job that dies leaves the others alone.
    """
    job = HydraConfig.get()
    overrides = [override.removeprefix("++") for override in job.overrides.task]
    number = job.job.num + 1
    print(f"job {number}: {' '.join(o for o in overrides if _key(o) in swept)}", flush=True)
    return subprocess.run(
        [sys.executable, "-m", "experiments.run", *options, *overrides],
        env={**os.environ, JOB: str(number)},
        check=False,
    ).returncode


def _table(by_job: Mapping[str, Run], jobs: Sequence[Sequence[str]]) -> pd.DataFrame:
    """A row a job: its values, what became of it, and its models' AUROCs at external sites."""
    rows = []
    for number, swept in enumerate(jobs, 1):
        run = by_job.get(str(number))
        row: dict[str, object] = {"job": number, **{_key(o): o.partition("=")[2] for o in swept}}
        row["result"] = "done" if run and run.info.status == "FINISHED" else "failed"
        metrics: dict[str, float] = run.data.metrics if run else {}
        external = run.data.tags.get("external", "") if run else ""
        # A single external institution is not pooled with any.
        pooled = (f"test/auroc/{ALL_EXTERNAL}/", f"test/auroc/{external}/")
        start = next((s for s in pooled if any(k.startswith(s) for k in metrics)), None)
        for name, value in sorted(metrics.items()):
            if start and name.startswith(start):
                row[f"AUROC {name.removeprefix(start)}"] = f"{value:.3f}"
        rows.append({**row, "run": run.info.run_id if run else ""})
    table = pd.DataFrame(rows).fillna("")
    return table[[*table.columns.drop("run"), "run"]]


def _together(
    tracking: Tracking,
    sweep: str,
    jobs: Sequence[tuple[Sequence[str], Config]],
    by_job: Mapping[str, Run],
    several: str,
) -> dict[str, pd.DataFrame]:
    """Leave on the sweep's run what its jobs found together, as tables and report.html.

    Of jobs that are done and judge yes or no; where they are fewer than two, nothing. The tables
    that people read come back by their titles.
    """
    found, costs = [], []
    for number, (swept, config) in enumerate(jobs, 1):
        job = by_job.get(str(number))
        if job is None or job.info.status != "FINISHED":
            continue
        summary = pd.DataFrame(tracking.json(job.info.run_id, "summary.json") or [])
        if "auroc" not in summary:
            continue
        values = {_key(override): override.partition("=")[2] for override in swept}
        values |= {SEED: str(config.seed)}
        confidence = config.statistics.confidence
        found.append(external_aurocs(summary, confidence=confidence).assign(**values))
        pretraining = tracking.stage(job, "pretrain")
        if pretraining is not None and "exams_seen" in pretraining.data.metrics:
            metrics = pretraining.data.metrics
            cost = {name: metrics.get(name, math.nan) for name in ("exams_seen", "seconds")}
            costs.append({**values, **cost, "run": pretraining.info.run_id})
    if len(found) < 2:
        return {}
    results = pd.concat(found, ignore_index=True)
    if results.empty:
        return {}
    settings = [str(name) for name in results if name not in (SEED, *TOLD, "auroc")]
    first = jobs[0][1]
    simulated = first.cohort.source == "simulated" and bool(first.models)
    html, report = repeats_report(
        results,
        settings,
        pd.DataFrame(costs),
        title=f"{first.study}: {several}",
        subtitle=f"{len(found)} of {len(jobs)} studies, target {titled(first.target)}",
        banners={"SIMULATED": SIMULATED} if simulated else {},
        confidence=first.statistics.confidence,
    )
    tracking.text(sweep, html, "report.html")
    tracking.table(sweep, results, "aurocs.csv")
    for table in report.tables:
        for name, text in table.files().items():
            tracking.text(sweep, text, f"tables/{name}")
    for picture in report.pictures:
        tracking.figure(sweep, picture.figure, f"figures/{picture.name}.png")
    return summary_tables(results, settings, confidence=first.statistics.confidence)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
