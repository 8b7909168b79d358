"""Contrastive predictive coding: from an ECG's past, tell its future among other pieces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.beats import cut, find_beats
from lightning_modules.pretraining.over_time import OverTime
from lightning_modules.pretraining.pretraining import Arrays, Sheet, Verdict

FOUND = "val/future_found"
FOUND_BY_REPEATING = "val/future_found_by_repeating"


class ContrastivePredictiveCoding(OverTime):
    """Pretrains on ECGs (batch[reads]: (B, leads, samples), normalised) by their future.

    After van den Oord et al. 2018 (arXiv:1807.03748), and with as many steps ahead and negatives
    from the same ECG as Al-Masud et al. 2025 (arXiv:2509.25095, ECG-CPC). An ECG is parted into
    pieces of `piece_seconds`, each embedded by two small layers. The network sees what comes before
    an instant drawn anew for every batch, after at least the share `least_seen` of the ECG: what
    follows is cut off, so that a network that looks both ways can't peep. From the mean over time
    of its features and those of the last instant, the next `ahead` pieces are predicted, each by a
    linear layer of its own, and told by their cosine at `temperature` from all other pieces of the
    ECG and from those of the batch's other ECGs at the same instant (InfoNCE).

    Logs `val/future_found`, how often the true piece is the likeliest, beside
    `val/future_found_by_repeating`, the same for the piece that is nearest in squared difference to
    what the ECG did whole beats earlier: a network above it knows more than that beats repeat.
    """

    word: ClassVar[str] = "cpc"
    name: ClassVar[str] = "contrastive predictive coding"
    judging: ClassVar[tuple[str, ...]] = ("plateau_found", "collapse_spread")
    shown: ClassVar[Mapping[str, str]] = {FOUND: "future found"}
    numbers: ClassVar[Mapping[str, tuple[str, str]]] = {
        FOUND: ("future_found", "future pieces found"),
        FOUND_BY_REPEATING: ("future_found_by_repeating", "found by repeating the last beats"),
    }
    example_caption: ClassVar[str] = ""

    def __init__(
        self,
        *,
        rate_hz: float,
        piece_seconds: float,
        ahead: int,
        least_seen: float,
        temperature: float,
        width: int,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        shape = shared["network"]["shape"]
        self.piece = max(1, round(piece_seconds * rate_hz))
        self.pieces = shape["samples"] // self.piece
        self.first = max(1, round(least_seen * self.pieces))
        if self.first + ahead > self.pieces:
            raise ValueError(
                f"{ahead} pieces ahead of the first {self.first} are more than the ECG's "
                f"{self.pieces}: lower ahead, least_seen or piece_seconds"
            )
        self.local = nn.Sequential(
            nn.Conv1d(shape["leads"], width, self.piece, self.piece),
            nn.GELU(),
            nn.Conv1d(width, width, 1),
        )
        self.prediction = nn.Linear(2 * self.width, ahead * width)

    def logits(self, ecg: Tensor, now: int) -> Tensor:
        """(B, leads, samples), the first `now` pieces seen -> scores (B, ahead, pieces + B) of the
        exam's own pieces and of the batch's at the same instant, -inf where that is its own."""
        features = self.forward_map(ecg[..., : now * self.piece])
        seen = torch.cat([features.mean(2), features[..., -1]], dim=1)
        ahead = self.hparams["ahead"]
        with torch.autocast(ecg.device.type, enabled=False):
            predicted = self.prediction(seen.float()).unflatten(1, (ahead, -1))
            predicted = F.normalize(predicted, dim=2)
            pieces = F.normalize(self.local(ecg.float()).transpose(1, 2), dim=2)
            own = predicted @ pieces.transpose(1, 2)
            others = torch.einsum("bkd,ckd->bkc", predicted, pieces[:, now : now + ahead])
            scores: Tensor = self.without_itself(own, others) / self.hparams["temperature"]
            return scores

    def without_itself(self, own: Tensor, others: Tensor) -> Tensor:
        """Scores of an exam's own pieces beside those of the others (B, ahead, pieces + B)."""
        itself = torch.eye(len(others), dtype=torch.bool, device=others.device)[:, None]
        return torch.cat([own, others.masked_fill(itself, -torch.inf)], dim=2)

    def truth(self, exams: int, now: int) -> Tensor:
        """Where the true pieces are among the scores (B, ahead)."""
        true = torch.arange(now, now + self.hparams["ahead"], device=self.device)
        return true.expand(exams, -1)

    def drawn(self, generator: torch.Generator | None = None) -> int:
        """How many pieces are seen."""
        last = self.pieces - self.hparams["ahead"] + 1
        device = "cpu" if generator is None else generator.device
        return int(torch.randint(self.first, last, (1,), generator=generator, device=device).item())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ecg, now = batch[self.reads], self.drawn()
        logits = self.logits(ecg, now)
        loss = F.cross_entropy(logits.flatten(0, 1), self.truth(len(ecg), now).flatten())
        self.log("train/loss", loss)
        return loss

    def validated(self, ecg: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        now = self.drawn(generator)
        logits, true = self.logits(ecg, now), self.truth(len(ecg), now)
        loss = F.cross_entropy(logits.flatten(0, 1), true.flatten())
        return {
            "loss": len(ecg) * loss,
            "found": (logits.argmax(2) == true).float().mean(1).sum(),
            "repeated": (self.repeating(ecg, now).argmax(2) == true).float().mean(1).sum(),
        }

    def repeating(self, ecg: Tensor, now: int) -> Tensor:
        """Scores as `logits` gives them, by minus the squared difference from the ECG whole beats
        earlier; the last seconds again where there are fewer than two beats before now."""
        ahead, seen = self.hparams["ahead"], now * self.piece
        past = ecg[..., :seen].float()
        beats = find_beats(past, self.hparams["rate_hz"])
        last = beats.peaks.gather(1, (beats.count - 1).clamp_min(0)[:, None])[:, 0]
        beat = (last - beats.peaks[:, 0]) / (beats.count - 1).clamp_min(1)
        beat = torch.where(beats.count > 1, beat, float(seen)).clamp(max=seen)[:, None]
        starts = seen + self.piece * torch.arange(ahead, device=ecg.device)
        whole = ((starts + self.piece - seen) / beat).ceil()
        earlier = (starts - whole * beat).round().long().clamp(0, seen - self.piece)
        guessed = cut(past, earlier, 0, self.piece).transpose(1, 2).flatten(2)
        whole_pieces = ecg[..., : self.pieces * self.piece].float()
        pieces = whole_pieces.view(*ecg.shape[:2], self.pieces, -1).transpose(1, 2).flatten(2)
        coming = pieces[:, now : now + ahead].transpose(0, 1)
        apart = torch.cdist(guessed.transpose(0, 1), coming).transpose(0, 1)
        return self.without_itself(-torch.cdist(guessed, pieces), -apart)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            "val/loss": sums["loss"] / sums["exams"],
            FOUND: sums["found"] / sums["exams"],
            FOUND_BY_REPEATING: sums["repeated"] / sums["exams"],
        }

    def example(self, exam: Tensor, restore: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {}

    @classmethod
    def sheets(cls, example: Arrays) -> list[Sheet]:
        return []

    @classmethod
    def told(cls, metrics: Mapping[str, float]) -> str:
        return (
            f"future found {metrics[FOUND]:.3f} "
            f"(by repeating the last beats {metrics[FOUND_BY_REPEATING]:.3f})"
        )

    @classmethod
    def verdict(cls, metrics: Mapping[str, float], settings: Mapping[str, Any]) -> Verdict:
        """Failed where it collapsed, or finds less of the future than `plateau_found`."""
        if collapsed := cls.collapsed(metrics, settings):
            return collapsed
        found, repeated = metrics[FOUND], metrics[FOUND_BY_REPEATING]
        if found < settings["plateau_found"]:
            return Verdict(
                failed=f"ended on its plateau: it finds {100 * found:.1f} % of the pieces ahead",
                advice=(
                    "Train longer (pretrain.max_steps, pretrain.max_epochs), or set a higher",
                    "pretrain.base_learning_rate.",
                ),
            )
        remark = "it has not learned more yet than that beats repeat; longer pretraining may pay."
        return Verdict(remark=remark if found < repeated else "")

    @classmethod
    def summary(cls, pretrainings: Sequence[Mapping[str, float]]) -> str:
        more = sum(of[FOUND] > of[FOUND_BY_REPEATING] for of in pretrainings)
        learned = f"{more} of {len(pretrainings)} encoders find more"
        if len(pretrainings) == 1:
            learned = f"the encoder finds {'more' if more else 'no more'}"
        return (
            "Found is the share of the coming pieces of validation patients' ECGs that are told "
            "from the ECG's other pieces and from other ECGs'. Repeating the last beats tells them "
            f"too: {learned} than that."
        )
