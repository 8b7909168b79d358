"""Detection of left ventricular systolic dysfunction from the 12-lead ECG (Sawano et al. 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor

from lightning_modules.classifier import Classifier
from lightning_modules.networks.resnet1d import ResNet1d
from lightning_modules.networks.vit import vision_transformer


def ecg_network(
    architecture: str, *, leads: int, samples: int, patch_samples: int, settings: Mapping[str, Any]
) -> VisionTransformer | ResNet1d:
    """A network from ECG (B, leads, samples) to one logit (B, 1): "vit" or "resnet1d"."""
    if architecture == "vit":
        return vision_transformer(
            leads=leads, samples=samples, patch_samples=patch_samples, outputs=1, **settings
        )
    if architecture == "resnet1d":
        return ResNet1d(leads=leads, outputs=1, **settings)
    raise ValueError(f"architecture {architecture!r} is not one of vit, resnet1d")


class LVSDClassifier(Classifier):
    """A Vision Transformer, from scratch or from a masked autoencoder, or a 1-D CNN.

    `settings` are the network's own (see `ecg_network`). `layer_decay` shrinks the learning rate
    layer by layer towards the input (timm; 1.0 for none). With `frozen_encoder` only the head
    learns: a linear probe.
    """

    network: VisionTransformer | ResNet1d

    def __init__(
        self,
        *,
        architecture: str,
        settings: dict[str, Any],
        leads: int,
        samples: int,
        patch_samples: int,
        frozen_encoder: bool,
        layer_decay: float,
        weight_decay: float,
        positive_weight: float,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        warmup_fraction: float,
        preprocessing: dict[str, Any],
    ) -> None:
        super().__init__(
            positive_weight=positive_weight,
            base_learning_rate=base_learning_rate,
            effective_batch=effective_batch,
            betas=betas,
            warmup_fraction=warmup_fraction,
            preprocessing=preprocessing,
        )
        self.save_hyperparameters()
        self.network = ecg_network(
            architecture,
            leads=leads,
            samples=samples,
            patch_samples=patch_samples,
            settings=settings,
        )
        if frozen_encoder:
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad = name.startswith(("head.", "fc_norm."))

    def load_encoder(self, pretrained: Mapping[str, Tensor]) -> None:
        """Start from the `state_dict` of a MaskedAutoencoder; the head stays as initialised.

        Raises ValueError, naming the weights, where the two encoders are not of one shape.
        """
        prefix = "network.encoder."
        encoder = {
            name.removeprefix(prefix): weight
            for name, weight in pretrained.items()
            if name.startswith(prefix)
        }
        own = self.network.state_dict()
        misfits = [
            f"{name} is {tuple(weight.shape)}, here {tuple(own[name].shape)}"
            for name, weight in encoder.items()
            if name in own and weight.shape != own[name].shape
        ]
        # Mean pooling replaces the encoder's last norm by one of its own, after pooling.
        spare = {"norm.weight", "norm.bias"}
        missing = {n for n in own if n not in encoder and not n.startswith(("head.", "fc_norm."))}
        unexpected = {n for n in encoder if n not in own} - spare
        if misfits or missing or unexpected:
            raise ValueError(
                "the pretrained encoder does not fit this network: "
                + "; ".join(misfits[:3] + sorted(missing)[:3] + sorted(unexpected)[:3])
            )
        self.network.load_state_dict(
            {name: weight for name, weight in encoder.items() if name in own}, strict=False
        )

    def on_train_epoch_start(self) -> None:
        if self.hparams["frozen_encoder"]:
            self.network.eval()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        ecg = batch["ecg"]
        features = self.network.forward_features(ecg)
        # bf16 has so few values that probabilities would tie, and an AUROC is made of ranks.
        with torch.autocast(ecg.device.type, enabled=False):
            return self.network.forward_head(features.float()).squeeze(1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        decay = self.hparams["weight_decay"]
        if isinstance(self.network, VisionTransformer):
            return param_groups_layer_decay(
                self.network,
                decay,
                no_weight_decay_list=self.network.no_weight_decay(),
                layer_decay=self.hparams["layer_decay"],
            )
        return param_groups_weight_decay(self.network, decay)
