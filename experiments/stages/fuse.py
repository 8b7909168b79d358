"""The fusion of submodels: trained on outputs for patients that no submodel had seen.

Stacking as in Wolpert, Neural Networks 1992;5:241. Development training patients are dealt into
folds; each fold is scored by submodels whose preprocessing, pretraining, weights and epoch come
from the other patients. The submodels that are kept, and that score everybody else, are trained
on all training patients.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import InputError
from datamodules.splits import assign_splits, check_balance
from experiments.config import plain
from experiments.console import StageBar, say
from experiments.evaluation.threshold import youden_threshold
from experiments.processes import is_first_process
from experiments.stages.cohort import Site
from experiments.stages.evaluate import COLUMNS, evaluate
from experiments.stages.finetune import Trained, outcome
from experiments.stages.folder import StageFolder
from experiments.stages.train import train_models
from experiments.stages.training import stage_run, table_trainer
from experiments.tracking import FUSION_TAG, MODEL_TAG, Tracking
from lightning_modules.checkpoint import CLASSIFIERS, load_classifier
from lightning_modules.ph import PHFusion

EXAM = ["institution", "split", "patient_id", "exam_id", "target"]
MONITORED = "val/loss"
SUBSET = " + "


def fuse(
    config: DictConfig,
    trained: Mapping[str, Trained],
    tested: pd.DataFrame,
    development: Sequence[Site],
    tracking: Tracking,
    parent: str | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cross-fit, train the fusion, and predict with it and with the baselines beside it.

    `tested` holds the submodels' predictions on exams that they were not trained on. Returns two
    predictions tables: of the fusion and its baselines, on these exams; and of the fusion with
    each subset of the inputs ("ecg", "ecg + bnp", ...) as a model, on exams that have all.
    """
    name, settings = config.fusion.name, plain(config.fusion)
    folder = StageFolder(
        Path(config.cache) / "stages",
        "fuse",
        {
            # A stage's name says all that decides a submodel, and with it those of the folds.
            "submodels": {model: of.checkpoint.parent.name for model, of in trained.items()},
            "pretrain": plain(config.pretrain),
            "fusion": {k: v for k, v in settings.items() if k != "stacking_penalty"},
            "seed": config.seed,
            "data": [site.digest for site in development],
        },
    )
    checkpoint, table = folder.path / "model.ckpt", folder.path / "cross_fitted.parquet"
    submodels = list(trained)
    with folder.alone():
        record = folder.record
        if record is not None:
            say(f"{name}: reused from run {record['run']} ({outcome(record)})")
            tracking.tags(parent, {f"reused.{name}": str(record["run"])})
        else:
            sites = ", ".join(site.name for site in development)
            with stage_run(
                tracking,
                folder,
                f"fuse {' + '.join(submodels)} · {name}",
                parent=parent,
                tags={
                    "stage": "fuse",
                    "model": name,
                    "development": sites,
                    **{f"submodel.{model}": str(of.run) for model, of in trained.items()},
                },
                params=settings,
            ) as run:
                cross_fitted = cross_fit(config, development, folder, tracking, run)
                if is_first_process():
                    record = _fit(
                        config,
                        trained,
                        cross_fitted,
                        wide(tested, submodels),
                        folder,
                        tracking,
                        run,
                    )
            if not is_first_process():
                record = folder.finished_by_first()
    assert record is not None
    tracking.tags(parent, {FUSION_TAG: name, f"{MODEL_TAG}{name}": str(record["run"])})
    fusion = load_classifier(checkpoint)
    assert isinstance(fusion, PHFusion)
    cross_fitted = pd.read_parquet(table)
    exams = wide(tested, submodels)
    outputs = exams[submodels].to_numpy()
    scores = {
        name: fused_logits(fusion, outputs),
        "mean_of_logits": np.nanmean(outputs, axis=1),
        "logistic_stacking": stacking(
            cross_fitted[submodels].to_numpy(),
            cross_fitted["target"].to_numpy(),
            outputs,
            penalty=config.fusion.stacking_penalty,
        ),
        "best_submodel": exams[record["ranking"]].bfill(axis=1).iloc[:, 0].to_numpy(),
    }
    complete = exams[exams[submodels].notna().all(axis=1)]
    reads = {model: CLASSIFIERS[config.models[model].classifier].input for model in submodels}
    inputs = tuple(dict.fromkeys(reads.values()))
    masked = {}
    for size in range(1, len(inputs) + 1):
        for subset in combinations(inputs, size):
            used = [reads[model] in subset for model in submodels]
            masked[SUBSET.join(subset)] = fused_logits(
                fusion, np.where(used, complete[submodels].to_numpy(), np.nan)
            )
    return _predictions(exams, scores), _predictions(complete, masked)


def folds_of(config: DictConfig, exams: pd.DataFrame) -> pd.Series:
    """The fold of each exam's patient, 1 to `fusion.folds`; a patient has one fold everywhere."""
    folds = config.fusion.folds
    shares = {str(fold): 1 / folds for fold in range(1, folds + 1)}
    # A seed of its own: the splits hash patients with the launch's, and training ones would be
    # those with low numbers.
    return assign_splits(exams["patient_id"], shares, seed=config.seed + 1).astype(int)


def check_fusion(config: DictConfig, development: Sequence[Site], external: Sequence[Site]) -> None:
    """Raise InputError, before anything is trained, where a fusion could not be learned or tested:
    no exam has all inputs, or a fold leaves a submodel with one class only.
    """
    exams = pd.concat([site.exams for site in development], ignore_index=True)
    others = pd.concat([exams, *(site.exams.assign(split="external") for site in external)])
    inputs = development[0].inputs
    has_all = (others[[f"{input}_row" for input in inputs]] >= 0).all(axis=1)
    complete = others[has_all & others["target"].notna()]
    for splits, who in (
        (("train",), "training exam of the development institutions"),
        (("test", "external"), "exam to test on"),
    ):
        if not complete["split"].isin(splits).any():
            raise InputError(
                f"No labelled {who} has all of {', '.join(inputs)}: there is nothing to "
                f"{'learn' if splits == ('train',) else 'test'} their fusion on. Fill in the "
                "manifests' missing values, or name other institutions."
            )
    fold = folds_of(config, exams)
    for input in inputs:
        for number in range(1, config.fusion.folds + 1):
            in_fold = (exams["split"] == "train") & (fold == number)
            left = (exams[f"{input}_row"] >= 0) & ~in_fold
            name = f"{config.target}, {input} without fold {number} of fusion.folds"
            target = exams.loc[left, "target"].rename(name)
            check_balance(exams[left], target, both_classes_in=("train", "val"))


def cross_fit(
    config: DictConfig,
    development: Sequence[Site],
    folder: StageFolder,
    tracking: Tracking,
    run: str | None,
) -> pd.DataFrame:
    """Out-of-sample outputs for the development training exams, a row an exam.

    institution, split, patient_id, exam_id, target, fold, and a column of logits a submodel, NaN
    where the exam lacks its input.
    """
    models, count = plain(config.models), config.fusion.folds
    tables = []
    for fold in range(1, count + 1):
        seen, held_out = [], []
        for site in development:
            out = (site.exams["split"] == "train") & (folds_of(config, site.exams) == fold)
            seen.append(replace(site, exams=site.exams[~out]))
            held_out.append(replace(site, exams=site.exams[out].assign(split="held_out")))
        say(f"cross-fit {fold} of {count}")
        with stage_run(
            tracking,
            folder,
            f"cross-fit {fold} of {count}",
            parent=run,
            tags={"stage": "cross-fit", "fold": str(fold)},
            params={},
            part=f"fold-{fold}",
        ) as of_fold:
            trained = train_models(config, models, seen, tracking, of_fold)
            scored = [
                evaluate(config, name, of.checkpoint, held_out, [])
                for name, of in trained.items()
                if _has_labelled(held_out, CLASSIFIERS[models[name]["classifier"]].input)
            ]
        if scored:
            tables.append(wide(pd.concat(scored), list(models)).assign(fold=fold))
    return pd.concat(tables, ignore_index=True)


def _has_labelled(sites: Sequence[Site], input: str) -> bool:
    return any(site.exams_with(input)["target"].notna().any() for site in sites)


def wide(predictions: pd.DataFrame, submodels: Sequence[str]) -> pd.DataFrame:
    """A row an exam, a column of logits a submodel; NaN where the exam lacks its input."""
    table = predictions.pivot(index=EXAM, columns="model", values="logit")
    return table.reindex(columns=list(submodels)).reset_index().rename_axis(columns=None)


def fused_logits(fusion: PHFusion, outputs: np.ndarray) -> np.ndarray:
    """The fusion's logits (n,) for submodels' outputs (n, submodels), NaN where missing."""
    with torch.inference_mode():
        return fusion({"logits": torch.from_numpy(outputs.astype(np.float32))}).double().numpy()


def stacking(
    learned: np.ndarray, target: np.ndarray, outputs: np.ndarray, *, penalty: float
) -> np.ndarray:
    """Logits (n,) of a logistic regression on logits and on which of them are there."""

    def features(logits: np.ndarray) -> np.ndarray:
        return np.hstack([np.nan_to_num(logits), np.isnan(logits)])

    model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(features(learned), target)
    return model.decision_function(features(outputs))


def _fit(
    config: DictConfig,
    trained: Mapping[str, Trained],
    cross_fitted: pd.DataFrame,
    tested: pd.DataFrame,
    folder: StageFolder,
    tracking: Tracking,
    run: str | None,
) -> dict[str, Any]:
    name, settings, submodels = config.fusion.name, plain(config.fusion), list(trained)
    validation = tested[tested["split"] == "val"]
    L.seed_everything(config.seed, verbose=False)
    logits = cross_fitted[submodels]
    fusion = PHFusion.from_submodels(
        {model: load_classifier(of.checkpoint) for model, of in trained.items()},
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
            "name": name,
            "target": config.target,
            "institutions": sorted(set(cross_fitted["institution"])),
            "exams": len(cross_fitted),
        },
    )
    best = KeepBest(fusion)
    fit = table_trainer(
        folder.path,
        [StageBar(name, {"val/auroc": "validation AUROC"}), best,
         EarlyStopping(MONITORED, patience=settings["patience"])],
        logger=tracking.logger(run),
        max_epochs=settings["max_epochs"],
    )  # fmt: skip
    fit.fit(
        fusion,
        DataLoader(Outputs(cross_fitted, submodels), settings["batch_size"], shuffle=True),
        DataLoader(Outputs(validation, submodels), len(validation)),
    )
    best.restore()
    scores = 1 / (1 + np.exp(-fused_logits(fusion.eval(), validation[submodels].to_numpy())))
    threshold = youden_threshold(validation["target"], scores)
    fusion.set_threshold(threshold)
    folder.path.mkdir(parents=True, exist_ok=True)
    fit.save_checkpoint(folder.path / "model.ckpt", weights_only=True)
    cross_fitted.to_parquet(folder.path / "cross_fitted.parquet", index=False)
    aurocs = {}
    for model in submodels:
        known = validation[validation[model].notna()]
        aurocs[model] = float(roc_auc_score(known["target"], known[model]))
    record: dict[str, Any] = {
        "run": run,
        "uri": tracking.uri,
        "val_auroc": float(roc_auc_score(validation["target"], scores)),
        "threshold": threshold,
        "ranking": sorted(aurocs, key=lambda model: -aurocs[model]),
    }
    say(f"{name}: trained on {len(cross_fitted)} out-of-sample outputs, {outcome(record)}")
    tracking.metrics(run, {"val/auroc_best": record["val_auroc"], "threshold": threshold})
    tracking.file(run, folder.path / "model.ckpt", "checkpoint")
    tracking.file(run, folder.path / "cross_fitted.parquet")
    folder.finish(record)
    return record


class Outputs(Dataset[dict[str, Any]]):
    """Submodels' outputs as a fusion's batches: logits (submodels,), target, exam."""

    def __init__(self, exams: pd.DataFrame, submodels: Sequence[str]) -> None:
        self.logits = torch.tensor(exams[list(submodels)].to_numpy(), dtype=torch.float32)
        self.target = torch.tensor(exams["target"].to_numpy(), dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, exam: int) -> dict[str, Any]:
        return {"logits": self.logits[exam], "target": self.target[exam], "exam": exam}


class KeepBest(L.Callback):
    """Keeps the weights with the lowest validation loss."""

    def __init__(self, fusion: PHFusion) -> None:
        self.fusion, self.loss = fusion, float("inf")
        self.weights = copy.deepcopy(fusion.network.state_dict())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics[MONITORED])
        if loss < self.loss:
            self.loss, self.weights = loss, copy.deepcopy(self.fusion.network.state_dict())

    def restore(self) -> None:
        self.fusion.network.load_state_dict(self.weights)


def _predictions(exams: pd.DataFrame, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    tables = [
        exams.assign(model=model, logit=logit, probability=1 / (1 + np.exp(-logit)))
        for model, logit in scores.items()
    ]
    return pd.concat(tables, ignore_index=True)[["model", *COLUMNS]]
