"""What pretrainings of any network that gives features over time share."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from lightning_modules.networks.network import HEAD, build_network
from lightning_modules.optimisation import adamw_warmup_cosine
from lightning_modules.pretraining.pretraining import Pretraining, Verdict
from lightning_modules.target import resolve

SPREAD = "val/spread"
ENCODER = "network."


class OverTime(Pretraining):
    """Pretrains a network that has `forward_map`, (B, leads, samples) -> features (B, D, T').

    `network`: its class (`_target_`), settings and shape; its head is left out. A subclass's
    constructor takes its own settings by their names in configs/pretrain and hands on the rest.
    ValueError for a network without `forward_map`.

    Logs `val/spread`, how far the embeddings of different exams lie apart: their standard
    deviation within validation batches divided by their length, both root mean squares. Where an
    encoder gives every exam the same, it is 0.
    """

    network: nn.Module

    def __init__(
        self,
        *,
        reads: str,
        network: Mapping[str, Any],
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        weight_decay: float,
        warmup_fraction: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.reads = reads
        self.check_takes(network)
        self.network = build_network(network, network["shape"], 1)
        self.network.head = nn.Identity()
        self.samples = network["shape"]["samples"]
        self.width, self.instants, self.one_length = map_size(network)

    def forward_map(self, ecg: Tensor) -> Tensor:
        """(B, leads, any samples) -> features over time (B, D, T').

        A network of one length only is shown a shorter ECG with nothing (zeros) behind it.
        """
        samples = ecg.shape[2]
        shown = F.pad(ecg, (0, self.samples - samples)) if self.one_length else ecg
        features: Tensor = self.network.forward_map(shown)  # type: ignore[operator]
        if self.one_length:
            features = features[..., : max(1, self.instants * samples // self.samples)]
        return features

    @classmethod
    def check_takes(cls, network: Mapping[str, Any]) -> None:
        """Raise ValueError, saying why, for a network that can't be pretrained like this."""
        if not hasattr(resolve(network["_target_"]), "forward_map"):
            raise ValueError(
                f"{network['_target_']} can't be pretrained as {cls.name}: it has no "
                "forward_map(ecg) that gives features over time. Choose a network=resnet1d*, "
                "xresnet1d* or s4*, another pretrain=, or pretrained=false"
            )

    @classmethod
    def build(
        cls,
        settings: Mapping[str, Any],
        *,
        reads: str,
        network: Mapping[str, Any],
        statistics: Mapping[str, Any],
        effective_batch: int,
        seed: int,
    ) -> Self:
        return cls(
            reads=reads,
            network={name: network[name] for name in ("_target_", "settings", "shape")},
            effective_batch=effective_batch,
            seed=seed,
            **{name: settings[name] for name in cls.own_settings()},
        )

    @classmethod
    def own_settings(cls) -> list[str]:
        """Those of configs/pretrain that its constructor takes."""
        given = {"self", "reads", "network", "effective_batch", "seed"}
        named = {*inspect.signature(cls).parameters, *inspect.signature(OverTime).parameters}
        return sorted(named - given - {"shared"})

    @classmethod
    def encoder(cls, weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        own = network.state_dict().keys()
        encoder = {
            name.removeprefix(ENCODER): weight
            for name, weight in weights.items()
            if name.startswith(ENCODER)
        }
        return {k: w for k, w in encoder.items() if k in own and not k.startswith(HEAD)}

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The features' mean over time (B, D)."""
        return self.forward_map(batch[self.reads]).mean(2)

    def on_validation_epoch_start(self) -> None:
        # The same draws every time, so that two validations differ by the network alone.
        self._generator = torch.Generator(self.device).manual_seed(self.hparams["seed"])
        self._sums: list[dict[str, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        embedded = self.embed(batch).float()
        exams = torch.tensor(float(len(embedded)), device=self.device)
        sums = {
            "exams": exams,
            "compared": exams - 1,
            # Within the batch: a difference of large sums would drown small deviations.
            "apart": (embedded - embedded.mean(0)).square().sum(),
            "length": embedded.square().sum(),
        }
        self._sums.append({**sums, **self.validated(batch[self.reads], self._generator)})

    @abstractmethod
    def validated(self, ecg: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Sums over a validation batch, of any names and shapes, for `metrics`."""

    @abstractmethod
    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is logged, of `validated`'s sums over all batches and "exams", how many these are.
        "val/loss" is among it."""

    def on_validation_epoch_end(self) -> None:
        sums = {}
        for name, of in self._sums[0].items():
            total = torch.stack([batch[name] for batch in self._sums]).sum(0)
            gathered = cast(Tensor, self.all_gather(total))
            sums[name] = gathered.reshape(-1, *of.shape).sum(0)
        apart = sums["apart"] / sums["compared"].clamp_min(1)
        length = (sums["length"] / sums["exams"]).clamp_min(1e-12)
        self.log_dict({**self.metrics(sums), SPREAD: (apart / length).sqrt()}, rank_zero_only=True)

    @classmethod
    def collapsed(cls, metrics: Mapping[str, float], settings: Mapping[str, Any]) -> Verdict | None:
        """A failed verdict where `val/spread` is below `collapse_spread`."""
        if metrics[SPREAD] >= settings["collapse_spread"]:
            return None
        return Verdict(
            failed=(
                "collapsed: its embeddings of different exams differ by "
                f"{100 * metrics[SPREAD]:.2g} % of their length"
            ),
            advice=("Lower pretrain.base_learning_rate, or set pretrain.gradient_clip=1.0.",),
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        unlisted: set[str] = getattr(self.network, "no_weight_decay", set)()
        return adamw_warmup_cosine(
            self,
            param_groups_weight_decay(
                self,
                self.hparams["weight_decay"],
                no_weight_decay_list=[f"{ENCODER}{name}" for name in unlisted],
            ),
            base_learning_rate=self.hparams["base_learning_rate"],
            effective_batch=self.hparams["effective_batch"],
            betas=self.hparams["betas"],
            warmup_fraction=self.hparams["warmup_fraction"],
        )


@torch.no_grad()
def map_size(network: Mapping[str, Any]) -> tuple[int, int, bool]:
    """How many features over time a network gives, at how many instants, and whether it takes ECGs
    of one length only."""
    # A network of its own, on the CPU: without memory (on torch's meta device) few can be asked.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        asked: Any = build_network(network, network["shape"], 1).eval()
        ecg = torch.zeros(1, network["shape"]["leads"], network["shape"]["samples"])
        _, width, instants = asked.forward_map(ecg).shape
        try:
            asked.forward_map(ecg[..., : ecg.shape[2] // 2])
        except ValueError:
            return width, instants, True
    return width, instants, False
