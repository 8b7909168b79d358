"""The fusion of submodels: trained on outputs for patients that no submodel had seen.

Stacking as in Wolpert, Neural Networks 1992;5:241. Development training patients are dealt into
folds; each fold is scored by submodels whose preprocessing, pretraining, weights and epoch come
from the other patients. The submodels that are kept, and that score everybody else, are trained
on all training patients.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import InputError
from datamodules.splits import assign_splits
from experiments.console import StageBar, say
from experiments.evaluation.predictions import EXAM_KEYS, EXTERNAL, TEST, TRAIN, VAL
from experiments.software import software_version
from experiments.stages.cohort import check_learnable
from experiments.stages.evaluate import evaluate
from experiments.stages.exams import Exams, Site, Table, target_column
from experiments.stages.stage import Lab, Place, Record, Stage, run_stage, stage_run
from experiments.stages.train import Models, Trained, chosen_thresholds, named, told
from experiments.stages.training import kept, table_trainer
from experiments.tracking import FUSION_TAG, MODEL_TAG
from lightning_modules.checkpoint import load_classifier
from lightning_modules.fusion import Fusion
from lightning_modules.target import name_of
from lightning_modules.tasks.task import Task

EXAM = list(EXAM_KEYS)
MONITORED = "val/loss"
SUBSET = " + "
CROSS_FITTED = "cross_fitted.parquet"


@dataclass(frozen=True)
class Fuse(Stage):
    """A fusion of a study's models, trained on outputs that were cross-fitted by patient.

    `settings`: how it is trained and into how many folds patients are dealt. `models`: how its
    submodels come to be, and those of the folds; `submodels` are the checkpoints that are kept,
    `validation` a `wide` table of what they say of the validation exams.
    """

    kind: ClassVar[str] = "fuse"

    fusion_name: str
    settings: Mapping[str, Any]
    models: Models
    submodels: Mapping[str, Path]
    validation: Table
    exams: tuple[Exams, ...]

    @property
    def name(self) -> str:
        return self.fusion_name

    @property
    def title(self) -> str:
        return f"fuse {' + '.join(self.submodels)} · {self.name}"

    @property
    def development(self) -> tuple[Site, ...]:
        return self.exams[0].sites

    @property
    def tags(self) -> dict[str, str]:
        sites = ", ".join(site.name for site in self.development)
        return {"model": self.name, "development": sites}

    @property
    def params(self) -> Mapping[str, Any]:
        return self.settings

    def told(self, record: Record) -> str:
        return told(self.models.task, record)

    def make(self, place: Place) -> Record:
        cross_fitted = cross_fit(self.models, self.settings["folds"], self.development, place)
        return place.lab.processes.decided(lambda: self._fit(cross_fitted, place))

    def _fit(self, cross_fitted: pd.DataFrame, place: Place) -> Record:
        settings, submodels = self.settings, list(self.submodels)
        labels, validation = self.models.task.labels, self.validation.frame
        learned, targets = said(cross_fitted, submodels, labels), targets_in(cross_fitted, labels)
        task = self.models.task.fitted(targets, balance=False)
        L.seed_everything(self.models.seed, verbose=False)
        fusion = Fusion.from_submodels(
            {
                name: load_classifier(checkpoint, place.lab.allowed)
                for name, checkpoint in self.submodels.items()
            },
            task={"_target_": name_of(type(task)), **task.as_dict()},
            mean=np.nanmean(learned, axis=0).tolist(),
            deviation=np.nanstd(learned, axis=0, ddof=1).tolist(),
            widths=settings["widths"],
            modality_dropout=settings["modality_dropout"],
            weight_decay=settings["weight_decay"],
            base_learning_rate=settings["base_learning_rate"],
            effective_batch=settings["batch_size"],
            betas=settings["betas"],
            warmup_fraction=settings["warmup_fraction"],
            about={
                "name": self.name,
                "labels": list(labels),
                "institutions": sorted(set(cross_fitted["institution"])),
                "exams": len(cross_fitted),
                "version": software_version(),
            },
        )
        best = KeepBest(fusion)
        fit = table_trainer(
            place.path,
            [
                StageBar(self.name, dict(task.shown)),
                best,
                EarlyStopping(MONITORED, patience=settings["patience"]),
            ],
            logger=place.lab.tracking.logger(place.run),
            max_epochs=settings["max_epochs"],
        )
        values, known = said(validation, submodels, labels), targets_in(validation, labels)
        fit.fit(
            fusion,
            DataLoader(Outputs(learned, targets), settings["batch_size"], shuffle=True),
            DataLoader(Outputs(values, known), len(validation)),
        )
        best.restore()
        rows = task.rows(validation[EXAM], known, fused(fusion.eval(), values))
        thresholds = chosen_thresholds(task, rows)
        fusion.set_threshold(thresholds)
        fit.save_checkpoint(place.checkpoint, weights_only=True)
        cross_fitted.to_parquet(place.path / CROSS_FITTED, index=False)
        alone = {}
        for number, name in enumerate(submodels):
            has = ~np.isnan(values[:, number, 0])
            of_submodel = task.rows(validation.loc[has, EXAM], known[has], values[has, number])
            alone[name] = task.score(of_submodel)
        validated = task.score(rows)
        return {
            "labels": len(cross_fitted),
            "validated": validated,
            "thresholds": thresholds,
            "ranking": sorted(alone, key=lambda name: -alone[name]),
            "metrics": {f"{task.monitored}_best": validated, **named(task, thresholds)},
            "files": {**kept(fusion, place), CROSS_FITTED: ""},
        }


def fuse(
    name: str,
    settings: Mapping[str, Any],
    models: Models,
    trained: Mapping[str, Trained],
    tested: pd.DataFrame,
    development: Sequence[Site],
    lab: Lab,
    parent: str | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cross-fit, train the fusion, and predict with it and with the baselines beside it.

    `tested` holds the submodels' predictions on exams that they were not trained on. Returns two
    predictions tables: of the fusion and its baselines, on these exams; and of the fusion with
    each subset of the inputs ("ecg", "ecg + bnp", ...) as a model, on exams that have all.
    """
    submodels, task, labels = list(trained), models.task, models.task.labels
    exams = wide(tested, submodels, task)
    reads = {model: of.reads for model, of in trained.items()}
    inputs = tuple(dict.fromkeys(reads.values()))
    made = run_stage(
        Fuse(
            name,
            {k: v for k, v in settings.items() if k not in ("name", "stacking_penalty")},
            models,
            {model: of.checkpoint for model, of in trained.items()},
            Table(exams[exams["split"] == VAL]),
            tuple(Exams(tuple(development), input, labels) for input in inputs),
        ),
        lab,
        parent,
    )
    lab.tracking.tags(made.run, {f"submodel.{model}": str(of.run) for model, of in trained.items()})
    lab.tracking.tags(parent, {FUSION_TAG: name, f"{MODEL_TAG}{name}": str(made.run)})
    fusion = load_classifier(made.checkpoint, lab.allowed)
    assert isinstance(fusion, Fusion)
    cross_fitted = pd.read_parquet(made.path / CROSS_FITTED)
    values, learned = said(exams, submodels, labels), said(cross_fitted, submodels, labels)
    best = [submodels.index(name) for name in made.record["ranking"]]
    scores = {
        name: fused(fusion, values),
        f"mean_of_{task.value}s": task.together(np.nanmean(values, axis=1)),
        f"{task.linear.split()[0]}_stacking": stacking(
            task,
            learned,
            targets_in(cross_fitted, labels),
            values,
            penalty=settings["stacking_penalty"],
        ),
        "best_submodel": first_present(values[:, best]),
    }
    complete = np.flatnonzero(~np.isnan(values[:, :, 0]).any(axis=1))
    masked = {}
    for size in range(1, len(inputs) + 1):
        for subset in combinations(inputs, size):
            used = np.array([reads[model] in subset for model in submodels])
            masked[SUBSET.join(subset)] = fused(
                fusion, np.where(used[:, None], values[complete], np.nan)
            )
    return _predictions(task, exams, scores), _predictions(task, exams.iloc[complete], masked)


def folds_of(patients: pd.Series, folds: int, seed: int) -> pd.Series:
    """The fold of each exam's patient, 1 to `folds`; a patient has one fold everywhere."""
    shares = {str(fold): 1 / folds for fold in range(1, folds + 1)}
    # A seed of its own: the splits hash patients with the launch's, and training ones would be
    # those with low numbers.
    return assign_splits(patients, shares, seed=seed + 1).astype(int)


def check_fusion(
    folds: int,
    seed: int,
    task: Task,
    development: Sequence[Site],
    external: Sequence[Site],
) -> None:
    """Raise InputError, before anything is trained, where a fusion could not be learned or tested:
    no exam has all inputs, or a fold leaves a submodel with one class only.
    """
    exams = pd.concat([site.exams for site in development], ignore_index=True)
    others = pd.concat([exams, *(site.exams.assign(split=EXTERNAL) for site in external)])
    inputs = list(development[0].inputs)
    has_all = (others[[f"{input}_row" for input in inputs]] >= 0).all(axis=1)
    targets = [target_column(label) for label in task.labels]
    complete = others[has_all & others[targets].notna().any(axis=1)]
    for splits, who in (
        ((TRAIN,), "training exam of the development institutions"),
        ((TEST, EXTERNAL), "exam to test on"),
    ):
        if not complete["split"].isin(splits).any():
            raise InputError(
                f"No labelled {who} has all of {', '.join(inputs)}: there is nothing to "
                f"{'learn' if splits == (TRAIN,) else 'test'} their fusion on. Fill in the "
                "manifests' missing values, or name other institutions."
            )
    fold = folds_of(exams["patient_id"], folds, seed)
    for input in inputs:
        for number in range(1, folds + 1):
            in_fold = (exams["split"] == TRAIN) & (fold == number)
            left = (exams[f"{input}_row"] >= 0) & ~in_fold
            where = f", {input} without fold {number} of fusion.folds"
            check_learnable(exams[left], task, where)


def cross_fit(
    models: Models, folds: int, development: Sequence[Site], place: Place
) -> pd.DataFrame:
    """Out-of-sample outputs for the development training exams, a row an exam.

    The table is `wide`, with the exam's fold.
    """
    tables = []
    for number in range(1, folds + 1):
        seen, held_out = [], []
        for site in development:
            fold = folds_of(site.exams["patient_id"], folds, models.seed)
            out = (site.exams["split"] == TRAIN) & (fold == number)
            seen.append(replace(site, exams=site.exams[~out]))
            held_out.append(replace(site, exams=site.exams[out].assign(split="held_out")))
        say(f"cross-fit {number} of {folds}")
        with stage_run(
            place.lab.tracking,
            place.path,
            f"cross-fit {number} of {folds}",
            parent=place.run,
            tags={"stage": "cross-fit", "fold": str(number)},
            params={},
            part=f"fold-{number}",
        ) as of_fold:
            trained = models.train(seen, place.lab, of_fold)
            scored = [
                evaluate(
                    name,
                    of.checkpoint,
                    of.key,
                    of.reads,
                    held_out,
                    [],
                    models.task.labels,
                    place.lab,
                )
                for name, of in trained.items()
                if any(
                    (site.labelled & (site.exams[f"{of.reads}_row"] >= 0)).any()
                    for site in held_out
                )
            ]
        if scored:
            table = wide(pd.concat(scored), list(trained), models.task)
            tables.append(table.assign(fold=number))
    return pd.concat(tables, ignore_index=True)


def wide(predictions: pd.DataFrame, submodels: Sequence[str], task: Task) -> pd.DataFrame:
    """A row an exam: the targets, and in a column a submodel and label what it says, NaN where the
    exam lacks its input."""
    of_exam = predictions.drop_duplicates([*EXAM, "label"])
    targets = of_exam.pivot(index=EXAM, columns="label", values=task.truth)
    said = predictions.pivot(index=EXAM, columns=["model", "label"], values=task.value)
    tables = [targets.reindex(columns=list(task.labels)).rename(columns=target_column)]
    for submodel in submodels:
        of_labels = [(submodel, label) for label in task.labels]
        own = said.reindex(columns=of_labels)
        tables.append(own.set_axis([_column(*of) for of in of_labels], axis=1))
    return pd.concat(tables, axis=1).reset_index()


def _column(submodel: str, label: str) -> str:
    return f"{submodel}: {label}"


def said(
    exams: pd.DataFrame, submodels: Sequence[str], labels: Sequence[str]
) -> NDArray[np.float64]:
    """What a `wide` table says (n, submodels, labels)."""
    table = exams[[_column(of, label) for of in submodels for label in labels]]
    values: NDArray[np.float64] = table.to_numpy(np.float64)
    return values.reshape(len(exams), len(submodels), len(labels))


def targets_in(exams: pd.DataFrame, labels: Sequence[str]) -> NDArray[np.float64]:
    """The targets of a `wide` table (n, labels)."""
    targets: NDArray[np.float64] = exams[list(map(target_column, labels))].to_numpy(np.float64)
    return targets


def first_present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of values (n, submodels, labels) those of each exam's first submodel that has its input."""
    first = (~np.isnan(values[:, :, 0])).argmax(axis=1)
    return np.asarray(values[np.arange(len(values)), first])


def fused(fusion: Fusion, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the fusion makes (n, labels) of submodels' values (n, submodels, labels), NaN where
    missing."""
    with torch.inference_mode():
        outputs = fusion({"values": torch.from_numpy(values.astype(np.float32))})
        return np.asarray(fusion.task.values(outputs.double()))


def stacking(
    task: Task,
    learned: NDArray[np.float64],
    targets: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    penalty: float,
) -> NDArray[np.float64]:
    """The task's linear model (n, labels) on values (n, submodels, labels) and on which submodels
    are there, fitted on those `learned` and their targets."""

    def features(of: NDArray[np.float64]) -> NDArray[np.float64]:
        absent = np.isnan(of[:, :, 0])
        return np.hstack([np.nan_to_num(of).reshape(len(of), -1), absent])

    applied = features(values)
    columns = []
    for number in range(len(task.labels)):
        target = targets[:, number]
        known = ~np.isnan(target)
        columns.append(
            task.stacked(features(learned[known]), target[known], applied, penalty=penalty)
        )
    return task.together(np.stack(columns, axis=1))


class Outputs(Dataset[dict[str, Any]]):
    """What submodels say as a fusion's batches: values (submodels, labels), target (labels,), and
    the exam's place."""

    def __init__(self, values: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
        self.values = torch.tensor(values, dtype=torch.float32)
        self.target = torch.tensor(targets, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, exam: int) -> dict[str, Any]:
        return {"values": self.values[exam], "target": self.target[exam], "exam": exam}


class KeepBest(L.Callback):
    """Keeps the weights with the lowest validation loss."""

    def __init__(self, fusion: Fusion) -> None:
        self.fusion, self.loss = fusion, float("inf")
        self.weights = copy.deepcopy(fusion.network.state_dict())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics[MONITORED])
        if loss < self.loss:
            self.loss, self.weights = loss, copy.deepcopy(self.fusion.network.state_dict())

    def restore(self) -> None:
        self.fusion.network.load_state_dict(self.weights)


def _predictions(
    task: Task, exams: pd.DataFrame, scores: Mapping[str, NDArray[np.float64]]
) -> pd.DataFrame:
    targets, tables = targets_in(exams, task.labels), []
    for model, values in scores.items():
        table = task.rows(exams[EXAM], targets, values)
        table.insert(0, "model", model)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
