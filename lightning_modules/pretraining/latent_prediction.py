"""Latent prediction: of a partly hidden ECG, the features that an averaged network gives of all."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lightning_modules.networks.vit import position_embedding
from lightning_modules.pretraining.over_time import OverTime
from lightning_modules.pretraining.pretraining import Arrays, Sheet, Verdict

EXPLAINED = "val/latents_explained"
EXPLAINED_BY_MEAN = "val/latents_explained_by_mean"


class LatentPrediction(OverTime):
    """Pretrains on ECGs (batch[reads]: (B, leads, samples), normalised) by latents, not samples.

    A joint-embedding predictive architecture (Assran et al. 2023, arXiv:2301.08243; of ECGs Kim
    2024, arXiv:2410.08559). The student sees the ECG with spans of `span_seconds` hidden in all
    leads (set to 0), together the share `mask_ratio`. From its features a small Transformer
    (`predictor`: width, depth, heads), told where is hidden, predicts at every hidden instant the
    features that the teacher gives of the whole ECG, each instant's brought to mean 0 and deviation
    1 over features. The teacher learns nothing by itself: it is the student's moving average,
    `teacher_momentum` a step at first and rising linearly to 1. It is what models start from.

    Logs `val/latents_explained`, the share explained of the hidden features' variance about each
    feature's mean, beside `val/latents_explained_by_mean`, the same where the exam's visible
    features' mean is the prediction: a network above it knows more than which exam it is.
    """

    word: ClassVar[str] = "latent prediction"
    name: ClassVar[str] = "latent prediction"
    judging: ClassVar[tuple[str, ...]] = ("plateau_latents_explained", "collapse_spread")
    shown: ClassVar[Mapping[str, str]] = {EXPLAINED: "latents explained"}
    numbers: ClassVar[Mapping[str, tuple[str, str]]] = {
        EXPLAINED: ("latents_explained", "of hidden latents explained"),
        EXPLAINED_BY_MEAN: ("latents_explained_by_mean", "explained by the exam's mean"),
    }
    example_caption: ClassVar[str] = ""

    student: Any
    position: Tensor

    def __init__(
        self,
        *,
        rate_hz: float,
        span_seconds: float,
        mask_ratio: float,
        teacher_momentum: float,
        predictor: Mapping[str, int],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        samples = shared["network"]["shape"]["samples"]
        self.span = max(1, round(span_seconds * rate_hz))
        self.spans = -(-samples // self.span)
        self.hidden_spans = round(mask_ratio * self.spans)
        if not 0 < self.hidden_spans < self.spans:
            raise ValueError(
                f"mask_ratio={mask_ratio:g} hides {self.hidden_spans} of {self.spans} spans: some "
                "must be hidden and some visible"
            )
        self.student = deepcopy(self.network)
        self.network.requires_grad_(False)
        width = predictor["width"]
        self.enter = nn.Linear(self.width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer(
            "position", position_embedding(1, self.instants, width), persistent=False
        )
        self.blocks = nn.Sequential(
            *(Block(width, predictor["heads"], qkv_bias=True) for _ in range(predictor["depth"]))
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.width))

    def drawn(self, exams: int, generator: torch.Generator | None = None) -> Tensor:
        """Which spans are hidden (B, spans)."""
        order = torch.rand(exams, self.spans, generator=generator, device=self.device).argsort(1)
        hidden: Tensor = order < self.hidden_spans
        return hidden

    def predicted(self, ecg: Tensor, spans: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ECG and its hidden spans (B, spans) -> predictions and teacher's latents, both
        (B, T', D), and which instants are hidden (B, T'): those whose middle is."""
        samples = ecg.shape[2]
        hidden = spans.repeat_interleave(self.span, 1)[:, :samples]
        middle = (torch.arange(self.instants, device=ecg.device) + 0.5) * samples / self.instants
        at = hidden[:, middle.long()]
        features: Tensor = self.student.forward_map(ecg.masked_fill(hidden[:, None], 0.0))
        tokens = self.enter(features.transpose(1, 2))
        tokens = torch.where(at[..., None], self.mask_token.to(tokens.dtype), tokens)
        predictions = self.leave(self.blocks(tokens + self.position)).float()
        with torch.no_grad():
            latents = self.forward_map(ecg).transpose(1, 2).float()
        return predictions, F.layer_norm(latents, latents.shape[2:]), at

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ecg = batch[self.reads]
        predictions, latents, hidden = self.predicted(ecg, self.drawn(len(ecg)))
        loss = (predictions - latents)[hidden].square().mean()
        self.log("train/loss", loss)
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The teacher follows the student."""
        total = max(1, int(self.trainer.estimated_stepping_batches))
        done = min(1.0, self.trainer.global_step / total)
        start = self.hparams["teacher_momentum"]
        momentum = start + (1 - start) * done
        for of, by in zip(self.network.parameters(), self.student.parameters(), strict=True):
            of.lerp_(by, 1 - momentum)

    def validated(self, ecg: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        predictions, latents, hidden = self.predicted(ecg, self.drawn(len(ecg), generator))
        shown = (~hidden)[..., None]
        mean = (latents * shown).sum(1, keepdim=True) / shown.sum(1, keepdim=True).clamp_min(1)
        wanted = latents[hidden]
        error = (predictions[hidden] - wanted).square()
        return {
            "loss": len(ecg) * error.mean(),
            "error": error.sum(),
            "error_of_mean": (mean.expand_as(latents)[hidden] - wanted).square().sum(),
            "instants": hidden.float().sum(),
            "latents": wanted.sum(0),
            "square": wanted.square().sum(),
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        centre = sums["latents"].square().sum() / sums["instants"]
        variance = (sums["square"] - centre).clamp_min(1e-12)
        return {
            "val/loss": sums["loss"] / sums["exams"],
            EXPLAINED: 1 - sums["error"] / variance,
            EXPLAINED_BY_MEAN: 1 - sums["error_of_mean"] / variance,
        }

    def example(self, exam: Tensor, restore: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {}

    @classmethod
    def sheets(cls, example: Arrays) -> list[Sheet]:
        return []

    @classmethod
    def told(cls, metrics: Mapping[str, float]) -> str:
        return (
            f"latents explained {metrics[EXPLAINED]:.3f}, "
            f"by the exam's mean {metrics[EXPLAINED_BY_MEAN]:.3f}"
        )

    @classmethod
    def verdict(cls, metrics: Mapping[str, float], settings: Mapping[str, Any]) -> Verdict:
        """Failed where it collapsed, or explains less than `plateau_latents_explained`."""
        if collapsed := cls.collapsed(metrics, settings):
            return collapsed
        explained, by_mean = metrics[EXPLAINED], metrics[EXPLAINED_BY_MEAN]
        if explained < settings["plateau_latents_explained"]:
            return Verdict(
                failed=(
                    f"ended on its plateau: it explains {100 * explained:.1f} % of the hidden "
                    "latents' variance"
                ),
                advice=(
                    "Train longer (pretrain.max_steps, pretrain.max_epochs), or set a higher",
                    "pretrain.base_learning_rate, or a lower pretrain.mask_ratio.",
                ),
            )
        remark = (
            "it has not learned more yet than which exam it is (the mean of what is visible "
            "explains more); longer pretraining may pay."
        )
        return Verdict(remark=remark if explained < by_mean else "")

    @classmethod
    def summary(cls, pretrainings: Sequence[Mapping[str, float]]) -> str:
        more = sum(of[EXPLAINED] > of[EXPLAINED_BY_MEAN] for of in pretrainings)
        learned = f"{more} of {len(pretrainings)} encoders learned more than that"
        if len(pretrainings) == 1:
            learned = f"the encoder has {'' if more else 'not '}learned more than that"
        return (
            "Explained is the share of the variance of hidden latents in validation patients. The "
            "mean of an exam's visible latents knows which exam it is, and nothing of when: "
            f"{learned}."
        )
