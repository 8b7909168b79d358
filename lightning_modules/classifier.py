"""What every classifier here shares: one logit an exam, trained on development institutions."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from lightning_modules.networks.ecg import ecg_network
from lightning_modules.networks.resnet1d import ResNet1d
from lightning_modules.optimisation import adamw_warmup_cosine


class Classifier(L.LightningModule):
    """Binary cross-entropy, validation AUROC over whole epochs, and an operating threshold.

    A subclass names its `input`, the batch's key that it reads, and builds `self.network`; its
    constructor's arguments are saved as hyper-parameters. Batches hold "target" (B,) in {0, 1} and
    "exam" (B,), an exam's number in the DataModule's table.

    A `positive_weight` (1 where a subclass has none) weighs the loss of positive exams against
    imbalance; the log of it is taken off the logit, so that probabilities stay those of the
    development prevalence. `threshold` is nan until `set_threshold`. It travels in the checkpoint,
    as do the class's name ("classifier"), `preprocessing`, and `about`: plain values that tell
    whoever loads it what was trained on.
    """

    input: str
    network: nn.Module
    threshold: Tensor
    positive_weight: Tensor

    def __init__(self, *, about: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams["about"] = about or {}
        self.register_buffer("threshold", torch.tensor(float("nan")))
        weight = torch.tensor(self.hparams.get("positive_weight", 1.0))
        self.register_buffer("positive_weight", weight, persistent=False)
        self.metrics = MetricCollection(
            {"auroc": BinaryAUROC(), "average_precision": BinaryAveragePrecision()}, prefix="val/"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classifier"] = type(self).__name__

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B,) of a batch."""
        inputs = batch[self.input]
        features = self.network.forward_features(inputs)  # type: ignore[operator]
        # bf16 has so few values that probabilities would tie, and an AUROC is made of ranks.
        with torch.autocast(inputs.device.type, enabled=False):
            return self.network.forward_head(features.float()).squeeze(1)  # type: ignore[operator]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups, each with its weight decay and, optionally, its `lr_scale`."""
        return param_groups_weight_decay(self.network, self.hparams["weight_decay"])

    def set_threshold(self, threshold: float) -> None:
        """Keep the probability from which an exam counts as positive."""
        self.threshold.fill_(threshold)

    def loss(self, logit: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy whose optimum is the unweighted log-odds."""
        weight = self.positive_weight
        return binary_cross_entropy_with_logits(logit + weight.log(), target, pos_weight=weight)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self(batch), batch["target"])
        self.log("train/loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._validated: list[Tensor] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        columns = (batch["exam"].float(), self(batch).float(), batch["target"])
        self._validated.append(torch.stack(columns, dim=1))

    def on_validation_epoch_end(self) -> None:
        # A distributed sampler repeats exams to fill its last batch: each counts once.
        gathered = cast(Tensor, self.all_gather(torch.cat(self._validated))).view(-1, 3)
        gathered = gathered[gathered[:, 0].argsort()]
        once = torch.ones(len(gathered), dtype=torch.bool, device=self.device)
        once[1:] = gathered[1:, 0] != gathered[:-1, 0]
        logit, target = gathered[once, 1], gathered[once, 2]
        self.log("val/loss", self.loss(logit, target))
        self.log_dict(self.metrics(logit.sigmoid(), target.int()))
        self.metrics.reset()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"exam": batch["exam"], "logit": self(batch).float()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_warmup_cosine(
            self,
            self.parameter_groups(),
            base_learning_rate=self.hparams["base_learning_rate"],
            effective_batch=self.hparams["effective_batch"],
            betas=self.hparams["betas"],
            warmup_fraction=self.hparams["warmup_fraction"],
        )


class ECGClassifier(Classifier):
    """A Vision Transformer, from scratch or from a masked autoencoder, or a 1-D CNN.

    `settings` are the network's own (see `ecg_network`). `layer_decay` shrinks the learning rate
    layer by layer towards the input (timm; 1.0 for none). With `frozen_encoder` only the head
    learns: a linear probe.
    """

    input = "ecg"
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
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(about=about)
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

    def parameter_groups(self) -> list[dict[str, Any]]:
        if isinstance(self.network, VisionTransformer):
            return param_groups_layer_decay(
                self.network,
                self.hparams["weight_decay"],
                no_weight_decay_list=self.network.no_weight_decay(),
                layer_decay=self.hparams["layer_decay"],
            )
        return super().parameter_groups()
