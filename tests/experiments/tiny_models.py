"""Checkpoints of tiny models, made and tested as the stages do, without a launch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from places import REPOSITORY

from datamodules.inputs.blood import Blood
from datamodules.inputs.cxr import CXR
from datamodules.inputs.ecg import ECG
from datamodules.inputs.input import Fitted, Input
from datamodules.institution import ExamDataModule, Loading
from datamodules.manifest import read_manifest
from datamodules.recordings import RecordingLimits
from datamodules.simulation import simulate_cohort, with_common
from datamodules.store import pack
from experiments.stages.evaluate import predict
from experiments.stages.fuse import fused, said, wide
from lightning_modules.classifier import TaskModule
from lightning_modules.ph import PHBNPClassifier, PHCXRClassifier, PHECGClassifier, PHFusion
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder
from lightning_modules.pretraining.pretraining import Pretraining
from lightning_modules.target import name_of
from lightning_modules.tasks.binary import Binary
from lightning_modules.tasks.regression import Regression
from lightning_modules.tasks.task import Task

SUBMODELS = {"ecg": "ph_ecg", "cxr": "ph_cxr", "bnp": "ph_bnp"}
LEARNING: dict[str, Any] = {
    "weight_decay": 0.05,
    "base_learning_rate": 0.1,
    "effective_batch": 16,
    "betas": [0.9, 0.999],
    "warmup_fraction": 0.1,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "ecg": {
        "_target_": "lightning_modules.networks.resnet1d.ResNet1d",
        "settings": {"widths": [8, 16], "blocks": 1, "kernel": 5, "dropout": 0.0},
    },
    "cxr": {
        "_target_": "lightning_modules.networks.cxr.TimmNetwork",
        "settings": {"model": "test_resnet", "dropout": 0.1},
    },
}
TRAINED_AT = "quillhaven"
PH = Binary(("ph",), (1.0,))


@dataclass(frozen=True)
class Models:
    """Checkpoints by model, the cohort's folder, and the predictions that testing gives."""

    root: Path
    checkpoints: dict[str, Path]
    ranges: dict[str, tuple[float, float]]
    tested: pd.DataFrame  # an exam a row: exam_id, a column of probabilities a model, NaN without
    manifest: pd.DataFrame

    def exam(self, *missing: str, institution: str = TRAINED_AT) -> pd.Series:
        """An institution's first exam that has every input but those missing."""
        of = self.manifest[self.manifest["institution"] == institution]
        for column in ("ecg_path", "cxr_path", "bnp_pg_ml"):
            of = of[of[column].isna() if column in missing else of[column].notna()]
        return of.iloc[0]

    def probability(self, exam: pd.Series, model: str) -> float:
        return self.tested.set_index("exam_id").at[exam["exam_id"], model]


def restless(module: TaskModule) -> None:
    """Give it weights far from zero, so that exams differ."""
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    module.set_threshold([0.45] * len(module.task.labels))
    module.eval()


def spread(module: TaskModule, logits: pd.Series) -> None:
    """Change its last layer so that these logits of it would have mean 0 and deviation 1."""
    last = [layer for layer in module.network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight /= logits.std()
        last.bias.copy_((last.bias - logits.mean()) / logits.std())


def trainer(folder: Path) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def save(module: TaskModule | Pretraining, folder: Path) -> Path:
    fit = trainer(folder)
    fit.strategy.connect(module)
    told = module.about if isinstance(module, Pretraining) else module.hparams["about"]
    path = folder / f"{told['name']}.ckpt"
    fit.save_checkpoint(path, weights_only=True)
    return path


def about(name: str, fitted: Fitted | None, *labels: str) -> dict[str, Any]:
    of_inputs = {"ranges": {k: list(v) for k, v in fitted.ranges.items()}} if fitted else {}
    return {
        "name": name,
        "labels": list(labels),
        "institutions": [TRAINED_AT],
        "exams": 9,
        **of_inputs,
    }


def settings_of(name: str, reads: str, fitted: Fitted, task: Task = PH) -> dict[str, Any]:
    """What any model's constructor takes, for an input as it was fitted."""
    input = fitted.input
    learning: dict[str, Any] = {"features": 1, "penalty": 1.0}
    if reads in NETWORKS:
        network = {**NETWORKS[reads], "shape": input.shape}
        learning = {"network": network, "frozen_encoder": False, "layer_decay": 1.0, **LEARNING}
    return {
        "reads": reads,
        "input": {"_target_": name_of(type(input)), **input.as_dict()},
        "task": values_of(task),
        "about": about(name, fitted, *task.labels),
        **learning,
    }


def values_of(task: Task) -> dict[str, Any]:
    return {"_target_": name_of(type(task)), **task.as_dict()}


def made_models(folder: Path) -> Models:
    """Three submodels fitted on quillhaven (500 Hz), their fusion, ECG models for LVSD, for two
    labels and for a number, a fusion of two labels, and a pretraining.

    Their weights are random, their inputs' statistics are not. brindlefen is at 250 Hz, and its
    films are MONOCHROME1.
    """
    cohort: Any = OmegaConf.to_container(
        OmegaConf.load(REPOSITORY / "configs" / "cohort" / "simulated.yaml")
    )
    settings = with_common(cohort["every_institution"], cohort["institutions"])
    small = {
        name: settings[name] | {"exams": 24, "chest_xrays": True}
        for name in (TRAINED_AT, "brindlefen")
    }
    small["brindlefen"]["seconds"] = 12  # longer than the model reads
    simulate_cohort(small, folder / "cohort", seed=3, workers=1)
    root = folder / "cohort"
    manifests = {name: read_manifest(root / f"{name}.csv") for name in small}
    manifest = pd.concat(manifests.values(), ignore_index=True)
    torch.manual_seed(1)

    def data(reads: str, input: Input) -> ExamDataModule:
        stores: dict[str, Any] = {}
        tables = []
        for name, exams in manifests.items():
            split = "train" if name == TRAINED_AT else "external"
            exams, row = exams[input.known(exams)], 0
            stores[name] = None
            if input.contents is not None:
                stores[name] = pack(
                    input.contents, exams, root, folder / "store", workers=1, on_error="fail"
                )
                row = stores[name].rows_of(exams["exam_id"])
            tables.append(exams.assign(target=1.0, split=split, row=row))
        return ExamDataModule(
            pd.concat(tables),
            stores,
            reads=reads,
            input=input,
            augmentation=None,
            loading=Loading(batch_size=7, workers=0, seed=0),
            targets=["target"],
        )

    limits = RecordingLimits(10, 60, 100, 4000)
    unfitted: dict[str, Input] = {
        "ecg": ECG(100, 10, 0.5, 40, 2, "development", 100, limits),
        "cxr": CXR(48),
        "bnp": Blood("bnp_pg_ml", age=False, sex=False),
    }
    fitted = {reads: data(reads, input).fit_input() for reads, input in unfitted.items()}
    kinds = {"ecg": PHECGClassifier, "cxr": PHCXRClassifier, "bnp": PHBNPClassifier}
    submodels: dict[str, TaskModule] = {
        name: kinds[reads](**settings_of(name, reads, fitted[reads]))
        for reads, name in SUBMODELS.items()
    }
    predictions = []
    for (reads, name), module in zip(SUBMODELS.items(), submodels.values(), strict=True):
        restless(module)
        exams = data(reads, fitted[reads].input)
        exams.exams["split"] = "external"
        spread(module, predict(trainer(folder), module, exams)["logit"])
        predictions.append(predict(trainer(folder), module, exams).assign(model=name))
    both = Binary(("ph", "lvsd"), (1.0, 1.0))
    tested = wide(pd.concat(predictions), list(submodels), PH)
    logits = said(tested, list(submodels), PH.labels)
    fusion = PHFusion.from_submodels(
        submodels,
        task=values_of(PH),
        mean=np.nanmean(logits, axis=0).tolist(),
        deviation=np.nanstd(logits, axis=0).tolist(),
        widths=[8, 8],
        modality_dropout=0.2,
        about=about("ph_fusion", None, "ph"),
        **LEARNING,
    )
    restless(fusion)
    lvsd = kinds["ecg"](**settings_of("lvsd", "ecg", fitted["ecg"], Binary(("lvsd",), (1.0,))))
    two = {
        name: kinds[reads](**settings_of(name, reads, fitted[reads], both))
        for reads, name in (("ecg", "two_ecg"), ("bnp", "two_bnp"))
    }
    number = Regression(("lvef_percent",), (55.0,), (8.0,))
    lvef = kinds["ecg"](**settings_of("lvef", "ecg", fitted["ecg"], number))
    for module in (*two.values(), lvef):
        restless(module)
    two["two_ecg"].set_threshold([0.45, float("nan")])
    of_two = PHFusion.from_submodels(
        two,
        task=values_of(both),
        mean=[[0.0, 0.0]] * 2,
        deviation=[[1.0, 1.0]] * 2,
        widths=[8, 8],
        modality_dropout=0.2,
        about=about("two_fusion", None, *both.labels),
        **LEARNING,
    )
    restless(of_two)
    tested["ph_fusion"] = fused(fusion, logits)[:, 0]
    tested = tested.assign(**{name: tested[f"{name}: ph"] for name in submodels})
    tested = tested.assign(**{m: 1 / (1 + np.exp(-tested[m])) for m in [*submodels, "ph_fusion"]})
    modules: list[TaskModule | Pretraining] = [*submodels.values(), fusion, lvsd, *two.values()]
    modules += [of_two, lvef, pretraining(fitted["ecg"])]
    checkpoints = {path.stem: path for path in (save(module, folder) for module in modules)}
    ranges = {k: v for of in fitted.values() for k, v in of.ranges.items()}
    return Models(root, checkpoints, ranges, tested, manifest)


def pretraining(fitted: Fitted) -> MaskedAutoencoder:
    """A masked autoencoder that was never trained."""
    made = MaskedAutoencoder(
        reads="ecg",
        leads=12,
        samples=fitted.input.shape["samples"],
        tokens={
            "_target_": "lightning_modules.networks.tokens.TimeTokens",
            "patch_samples": 100,
        },
        encoder={"width": 16, "depth": 1, "heads": 2},
        decoder={"width": 16, "depth": 1, "heads": 2},
        mask_ratio=0.75,
        masking="random",
        normalise_targets=False,
        seed=0,
        lead_covariance=fitted.statistics["lead_covariance"],
        **LEARNING,
    )
    made.input = {"_target_": name_of(type(fitted.input)), **fitted.input.as_dict()}
    made.about = about("mae", fitted)
    return made.eval()
