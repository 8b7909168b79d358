"""From one exam's files and values to a probability, by what stands in a checkpoint alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.inputs.input import Input
from datamodules.manifest import Column
from experiments.stages.evaluate import input_of
from lightning_modules.checkpoint import load_classifier
from lightning_modules.classifier import TaskModule
from lightning_modules.fusion import Fusion

# Of a range's ends: alone, an exam's figures round otherwise than in the batches they came from.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Prediction:
    """A probability and what it was based on.

    threshold, positive: None where the checkpoint has no operating threshold. inputs, missing:
    what the model reads, by name, and was there, and was not. submodels: each one's own
    probability, for a fusion. warnings: sentences on inputs that are unlike the training data.
    """

    probability: float
    threshold: float | None
    positive: bool | None
    inputs: tuple[str, ...]
    missing: tuple[str, ...]
    submodels: dict[str, float]
    warnings: tuple[str, ...]
    model: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `submodels` only where there are some."""
        values = asdict(self)
        return values if self.submodels else {k: v for k, v in values.items() if k != "submodels"}


class Predictor:
    """A checkpoint's model, and the inputs that it was trained on.

    `source` is what the person called it, `allowed` modules beside this software's own whose code
    the checkpoint may name. `name`, `target` and `institutions` are what it was trained as, for and
    at; `inputs` what it reads, by name; `submodels` each one's input, for a fusion. Raises
    InputError for a file that is no model's checkpoint.
    """

    def __init__(self, checkpoint: Path, source: str, allowed: Sequence[str] = ()) -> None:
        try:
            self.module = load_classifier(checkpoint, allowed)
            fused: Any = self.module.submodels.items() if isinstance(self.module, Fusion) else ()
            name = self.module.hparams["about"]["name"]
            self._parts: dict[str, TaskModule] = dict(fused) or {name: self.module}
            self._input_of = {name: input_of(part) for name, part in self._parts.items()}
        except ValueError as error:
            told = str(error).replace(str(checkpoint), source)
            raise InputError(f"model={told}") from None
        about = self.module.hparams["about"]
        self.source, self.name, self.target = source, about["name"], about["target"]
        self.institutions: list[str] = about["institutions"]
        self.submodels = {name: part.reads for name, part in fused}
        self.inputs: dict[str, Input] = {
            part.reads: self._input_of[name] for name, part in self._parts.items()
        }

    @property
    def labels(self) -> dict[str, str]:
        """What people call what it reads, by input."""
        return {name: input.label for name, input in self.inputs.items()}

    @property
    def arguments(self) -> dict[str, str]:
        """Names on the command line -> the manifest's columns that they stand for."""
        return {k: v for input in self.inputs.values() for k, v in input.arguments.items()}

    @property
    def columns(self) -> dict[str, Column]:
        """The manifest's columns of its inputs."""
        return {k: v for input in self.inputs.values() for k, v in input.columns.items()}

    @property
    def threshold(self) -> float | None:
        """The operating threshold; None where the checkpoint has none."""
        threshold = self.module.threshold.item()
        return threshold if threshold == threshold else None

    def __call__(self, values: Mapping[str, Any], folder: Path = Path()) -> Prediction:
        """The probability for one exam, in float32 on the CPU.

        `values` are those of a manifest's row that are known, paths relative to `folder`. Raises
        InputError for a file that can't be used, and where nothing of what the model reads is
        there.
        """
        torch.set_float32_matmul_precision("highest")
        prepared: dict[str, Tensor] = {}
        warnings: dict[str, None] = {}
        with torch.inference_mode():
            for name, part in self._parts.items():
                found = self._input_of[name].of_exam(values, folder)
                if found is None:
                    continue
                raw, measured = found
                prepared[name] = self._input_of[name].prepare(raw)
                ranges = part.hparams["about"].get("ranges", {})
                warnings |= dict.fromkeys(_unlike(measured, ranges))
            if not prepared:
                raise InputError(f"there is no {' and no '.join(self.labels.values())}")
            logit, of_submodels = self._logits(prepared)
        # A fusion would take a submodel's nan for a missing input.
        if not np.isfinite([logit, *of_submodels.values()]).all():
            raise InputError("the model's output is not a number for these inputs")
        probability, threshold = _sigmoid(logit), self.threshold
        inputs = {self._parts[name].reads for name in prepared}
        return Prediction(
            probability=probability,
            threshold=threshold,
            positive=None if threshold is None else probability >= threshold,
            inputs=tuple(input for input in self.labels if input in inputs),
            missing=tuple(input for input in self.labels if input not in inputs),
            submodels={name: _sigmoid(of) for name, of in of_submodels.items()},
            warnings=tuple(warnings),
            model={
                "name": self.name,
                "target": self.target,
                "source": self.source,
                "trained_on": self.institutions,
            },
        )

    def _logits(self, prepared: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
        """The exam's logit, and those of a fusion's submodels whose input is there."""
        if not isinstance(self.module, Fusion):
            (tensor,) = prepared.values()
            return self.module({self.module.reads: tensor}).item(), {}
        logits = self.module.submodel_logits(prepared)
        each = dict(zip(self.submodels, logits[0].tolist(), strict=True))
        return self.module({"logits": logits}).item(), {name: each[name] for name in prepared}


def _unlike(
    measured: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    """A sentence for each quantity outside its range in the training data."""
    for quantity, value in measured.items():
        if quantity not in ranges:
            continue
        low, high = ranges[quantity]
        if low - TOLERANCE * abs(low) <= value <= high + TOLERANCE * abs(high):
            continue
        name, unit = quantity.removesuffix(")").split(" (")
        name = name[0].upper() + name[1:]
        if low == high:
            yield f"{name} {_number(value)} {unit} is not the training data's {_number(low)} {unit}"
        else:
            yield (
                f"{name} {_number(value)} {unit} is outside {_number(low)} to {_number(high)}, "
                "the range of the training data"
            )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _sigmoid(logit: float) -> float:
    return torch.tensor(logit, dtype=torch.float64).sigmoid().item()
