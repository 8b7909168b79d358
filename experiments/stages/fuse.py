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
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import InputError
from datamodules.splits import assign_splits, check_balance
from experiments.console import StageBar, say
from experiments.evaluation.predictions import COLUMNS, EXAM_KEYS, EXTERNAL, TEST, TRAIN, VAL
from experiments.stages.evaluate import evaluate
from experiments.stages.exams import TARGET, Exams, Site, Table
from experiments.stages.stage import Lab, Place, Record, Stage, run_stage, stage_run
from experiments.stages.train import Models, Trained, chosen_thresholds, named, told
from experiments.stages.training import table_trainer
from experiments.tracking import FUSION_TAG, MODEL_TAG
from lightning_modules.checkpoint import load_classifier
from lightning_modules.fusion import Fusion
from lightning_modules.target import name_of
from lightning_modules.tasks.task import Task

EXAM = [*EXAM_KEYS, TARGET]
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
        settings, task, submodels = self.settings, self.models.task, list(self.submodels)
        validation = self.validation.frame
        L.seed_everything(self.models.seed, verbose=False)
        logits = cross_fitted[submodels]
        fusion = Fusion.from_submodels(
            {
                name: load_classifier(checkpoint, place.lab.allowed)
                for name, checkpoint in self.submodels.items()
            },
            task={"_target_": name_of(type(task)), **task.as_dict()},
            weights=task.weights(cross_fitted[[TARGET]].to_numpy(), balance=False),
            mean=logits.mean().tolist(),
            deviation=logits.std().tolist(),
            widths=settings["widths"],
            modality_dropout=settings["modality_dropout"],
            weight_decay=settings["weight_decay"],
            base_learning_rate=settings["base_learning_rate"],
            effective_batch=settings["batch_size"],
            betas=settings["betas"],
            warmup_fraction=settings["warmup_fraction"],
            about={
                "name": self.name,
                "target": ", ".join(task.labels),
                "institutions": sorted(set(cross_fitted["institution"])),
                "exams": len(cross_fitted),
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
        fit.fit(
            fusion,
            DataLoader(Outputs(cross_fitted, submodels), settings["batch_size"], shuffle=True),
            DataLoader(Outputs(validation, submodels), len(validation)),
        )
        best.restore()
        rows = task.rows(validation[EXAM], fused(fusion.eval(), validation[submodels].to_numpy()))
        thresholds = chosen_thresholds(task, rows)
        fusion.set_threshold(thresholds)
        fit.save_checkpoint(place.checkpoint, weights_only=True)
        cross_fitted.to_parquet(place.path / CROSS_FITTED, index=False)
        alone = {}
        for name in submodels:
            known = validation[validation[name].notna()]
            alone[name] = task.score(task.rows(known[EXAM], known[[name]].to_numpy()))
        validated = task.score(rows)
        return {
            "labels": len(cross_fitted),
            "validated": validated,
            "thresholds": thresholds,
            "ranking": sorted(alone, key=lambda name: -alone[name]),
            "metrics": {f"{task.monitored}_best": validated, **named(task, thresholds)},
            "files": {place.checkpoint.name: "checkpoint", CROSS_FITTED: ""},
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
    submodels, task = list(trained), models.task
    exams = wide(tested, submodels)
    reads = {model: of.reads for model, of in trained.items()}
    inputs = tuple(dict.fromkeys(reads.values()))
    made = run_stage(
        Fuse(
            name,
            {k: v for k, v in settings.items() if k not in ("name", "stacking_penalty")},
            models,
            {model: of.checkpoint for model, of in trained.items()},
            Table(exams[exams["split"] == VAL]),
            tuple(Exams(tuple(development), input, with_target=True) for input in inputs),
        ),
        lab,
        parent,
    )
    lab.tracking.tags(made.run, {f"submodel.{model}": str(of.run) for model, of in trained.items()})
    lab.tracking.tags(parent, {FUSION_TAG: name, f"{MODEL_TAG}{name}": str(made.run)})
    fusion = load_classifier(made.checkpoint, lab.allowed)
    assert isinstance(fusion, Fusion)
    cross_fitted = pd.read_parquet(made.path / CROSS_FITTED)
    outputs = exams[submodels].to_numpy()
    scores = {
        name: fused(fusion, outputs),
        "mean_of_logits": np.nanmean(outputs, axis=1, keepdims=True),
        "logistic_stacking": stacking(
            cross_fitted[submodels].to_numpy(),
            cross_fitted[TARGET].to_numpy(),
            outputs,
            penalty=settings["stacking_penalty"],
        )[:, None],
        "best_submodel": exams[made.record["ranking"]].bfill(axis=1).iloc[:, [0]].to_numpy(),
    }
    complete = exams[exams[submodels].notna().all(axis=1)]
    masked = {}
    for size in range(1, len(inputs) + 1):
        for subset in combinations(inputs, size):
            used = [reads[model] in subset for model in submodels]
            masked[SUBSET.join(subset)] = fused(
                fusion, np.where(used, complete[submodels].to_numpy(), np.nan)
            )
    return _predictions(task, exams, scores), _predictions(task, complete, masked)


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
    complete = others[has_all & others[TARGET].notna()]
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
            for label in task.classed:
                name = f"{label}, {input} without fold {number} of fusion.folds"
                target = exams.loc[left, TARGET].rename(name)
                check_balance(exams[left], target, both_classes_in=(TRAIN, VAL))


def cross_fit(
    models: Models, folds: int, development: Sequence[Site], place: Place
) -> pd.DataFrame:
    """Out-of-sample outputs for the development training exams, a row an exam.

    institution, split, patient_id, exam_id, target, fold, and a column of logits a submodel, NaN
    where the exam lacks its input.
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
                evaluate(name, of.checkpoint, of.key, of.reads, held_out, [], place.lab)
                for name, of in trained.items()
                if any(site.exams_with(of.reads)[TARGET].notna().any() for site in held_out)
            ]
        if scored:
            tables.append(wide(pd.concat(scored), list(trained)).assign(fold=number))
    return pd.concat(tables, ignore_index=True)


def wide(predictions: pd.DataFrame, submodels: Sequence[str]) -> pd.DataFrame:
    """A row an exam, a column of logits a submodel; NaN where the exam lacks its input."""
    table = predictions.pivot(index=EXAM, columns="model", values="logit")
    return table.reindex(columns=list(submodels)).reset_index().rename_axis(columns=None)


def fused(fusion: Fusion, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fusion's outputs (n, 1) for submodels' (n, submodels), NaN where missing."""
    with torch.inference_mode():
        made = fusion({"logits": torch.from_numpy(outputs.astype(np.float32))})
    return np.asarray(made.double().numpy())


def stacking(
    learned: np.ndarray, target: np.ndarray, outputs: np.ndarray, *, penalty: float
) -> np.ndarray:
    """Logits (n,) of a logistic regression on logits and on which of them are there."""

    def features(logits: np.ndarray) -> np.ndarray:
        return np.hstack([np.nan_to_num(logits), np.isnan(logits)])

    model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(features(learned), target)
    return np.asarray(model.decision_function(features(outputs)))


class Outputs(Dataset[dict[str, Any]]):
    """Submodels' outputs as a fusion's batches: logits (submodels,), target, exam."""

    def __init__(self, exams: pd.DataFrame, submodels: Sequence[str]) -> None:
        self.logits = torch.tensor(exams[list(submodels)].to_numpy(), dtype=torch.float32)
        self.target = torch.tensor(exams[[TARGET]].to_numpy(), dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, exam: int) -> dict[str, Any]:
        return {"logits": self.logits[exam], "target": self.target[exam], "exam": exam}


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
    tables = [
        task.rows(exams[EXAM], outputs).assign(model=model) for model, outputs in scores.items()
    ]
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]
