"""Models so small that a training step takes no time, and a Trainer that writes nothing."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from lightning_modules.classifier import Classifier
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder

LVSD = {
    "_target_": "lightning_modules.tasks.binary.Binary",
    "labels": ["lvsd"],
    "positive_weights": [1.0],
}
TIME = {"_target_": "lightning_modules.networks.tokens.TimeTokens", "patch_samples": 10}
PH = {**LVSD, "labels": ["ph"]}
VIT = {
    "_target_": "lightning_modules.networks.vit.ViT",
    "settings": {
        "width": 16,
        "depth": 1,
        "heads": 2,
        "tokens": TIME,
        "pooling": "mean",
        "drop_path": 0.0,
    },
    "shape": {"leads": 12, "samples": 100},
}
CNN = {
    "_target_": "lightning_modules.networks.resnet1d.ResNet1d",
    "settings": {"widths": [8, 16], "blocks": 1, "kernel": 5, "dropout": 0.0},
    "shape": {"leads": 12, "samples": 100},
}
RESNET = {
    "_target_": "lightning_modules.networks.cxr.TimmNetwork",
    "settings": {"model": "resnet18", "dropout": 0.0},
    "shape": {"channels": 1, "size": 32},
}
ECG = {"_target_": "datamodules.inputs.ecg.ECG", "sampling_rate_hz": 10, "mean": [0.0] * 12}


def trainer(folder: Path, **settings: object) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **settings,  # type: ignore[arg-type]
    )


def classifier(network: dict[str, Any] = VIT, **changes: Any) -> Classifier:
    """Of ECGs unless `changes` says otherwise."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "reads": "ecg",
        "input": ECG,
        "task": LVSD,
        "network": network,
        "frozen_encoder": False,
        "layer_decay": 0.5 if network["_target_"] == VIT["_target_"] else 1.0,
        "weight_decay": 0.05,
        "base_learning_rate": 0.1,
        "effective_batch": 16,
        "betas": [0.9, 0.999],
        "warmup_fraction": 0.1,
    }
    return Classifier(**{**settings, **changes})


def film_classifier(**changes: Any) -> Classifier:
    settings: dict[str, Any] = {
        "reads": "cxr",
        "input": {"_target_": "datamodules.inputs.cxr.CXR", "size": 32},
        "task": {**PH, "positive_weights": [2.0]},
        "base_learning_rate": 0.016,
    }
    return classifier(**{"network": RESNET, **settings, **changes})


def with_settings(network: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**network, "settings": {**network["settings"], **changes}}


def exams(n: int = 32, repeat: int = 0, first: int = 0) -> DataLoader[dict[str, torch.Tensor]]:
    """ECGs with numbers from `first`, every third positive; the first comes `repeat` times more."""
    generator = torch.Generator().manual_seed(5)
    ecg = torch.randn(n, 12, 100, generator=generator)
    rows = [
        {"ecg": ecg[i], "target": torch.tensor([float(i % 3 == 0)]), "exam": first + i}
        for i in [*range(n), *[0] * repeat]
    ]
    return DataLoader(rows, batch_size=16)  # type: ignore[arg-type]


def autoencoder(**changes: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    settings = {
        "reads": "ecg",
        "leads": 12,
        "samples": 100,
        "tokens": TIME,
        "encoder": {"width": 16, "depth": 1, "heads": 2},
        "decoder": {"width": 16, "depth": 1, "heads": 2},
        "mask_ratio": 0.75,
        "masking": "random",
        "normalise_targets": False,
        "base_learning_rate": 1e-3,
        "effective_batch": 8,
        "betas": [0.9, 0.95],
        "weight_decay": 0.05,
        "warmup_fraction": 0.1,
        "seed": 3,
        "lead_covariance": np.eye(12).tolist(),
    }
    return MaskedAutoencoder(**{**settings, **changes})  # type: ignore[arg-type]


def ecgs(ecg: torch.Tensor) -> DataLoader[dict[str, torch.Tensor]]:
    """Exams without targets, as a pretraining reads them."""
    return DataLoader([{"ecg": e} for e in ecg], batch_size=8)  # type: ignore[arg-type]


def losses_on_a_wave_in_noise(network: nn.Module, steps: int) -> list[float]:
    """Of training on 32 ECGs (12, 200), every second with a slow wave of the noise's size in V1."""
    torch.manual_seed(0)
    ecg, target = torch.randn(32, 12, 200), (torch.arange(32.0) % 2)[:, None]
    ecg[:, 6] += target * torch.sin(torch.arange(200) / 8)
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    losses = []
    for _ in range(steps):
        loss = binary_cross_entropy_with_logits(network(ecg), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
