"""A trained model as an object: from one exam's files, arrays and values to what it says of it."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import InputError, NoAnswerError, listed
from datamodules.inputs.input import Input, Raw
from datamodules.manifest import COMMON, Column
from experiments.stages.evaluate import input_of
from lightning_modules.checkpoint import load_trained
from lightning_modules.classifier import TaskModule
from lightning_modules.fusion import Fusion
from lightning_modules.pretraining.pretraining import Pretraining
from lightning_modules.tasks.task import Task

# Of a range's ends: alone, an exam's figures round otherwise than in the batches they came from.
TOLERANCE = 1e-4
RATE = "_sampling_rate_hz"  # of the array that is called so before it


@dataclass(frozen=True)
class Answer:
    """What a model says of one label: `fields` are its task's.

    A yes or no has probability, threshold and positive (None where the model has no operating
    threshold); a number has estimate, in the unit of its column. InputError for what the task does
    not have.
    """

    fields: Mapping[str, Any]

    @property
    def number(self) -> float:
        """The probability, or the estimate."""
        return float(next(iter(self.fields.values())))

    @property
    def probability(self) -> float:
        return float(self._of("probability"))

    @property
    def threshold(self) -> float | None:
        return cast("float | None", self._of("threshold"))

    @property
    def positive(self) -> bool | None:
        return cast("bool | None", self._of("positive"))

    @property
    def estimate(self) -> float:
        return float(self._of("estimate"))

    def _of(self, name: str) -> Any:
        if name not in self.fields:
            raise InputError(f"this model gives no {name}, but {listed(self.fields)}.")
        return self.fields[name]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one exam, and what that was based on.

    labels: its answers, by label; of a model of one label probability, threshold, positive and
    estimate are its. inputs, missing: what the model reads, by name, and was there, and was not.
    submodels: of a fusion, what each whose input is there says, by label. warnings: sentences on
    inputs that are unlike the training data.
    """

    labels: Mapping[str, Answer]
    inputs: tuple[str, ...]
    missing: tuple[str, ...]
    submodels: Mapping[str, Mapping[str, Answer]]
    warnings: tuple[str, ...]
    model: Mapping[str, Any]

    @property
    def probability(self) -> float:
        return self._only("probability").probability

    @property
    def threshold(self) -> float | None:
        return self._only("threshold").threshold

    @property
    def positive(self) -> bool | None:
        return self._only("positive").positive

    @property
    def estimate(self) -> float:
        return self._only("estimate").estimate

    def _only(self, name: str) -> Answer:
        if len(self.labels) > 1:
            first = next(iter(self.labels))
            raise InputError(
                f"the model answers {len(self.labels)} questions ({', '.join(self.labels)}): take "
                f"one of them, .labels[{first!r}].{name}"
            )
        return next(iter(self.labels.values()))

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `submodels` only where there are some.

        Of one label its answer stands by itself, and a submodel's is its number; several stand by
        label.
        """
        rest = {
            "inputs": list(self.inputs),
            "missing": list(self.missing),
            "submodels": {},
            "warnings": list(self.warnings),
            "model": dict(self.model),
        }
        if len(self.labels) == 1:
            (answer,) = self.labels.values()
            alone = {name: of.number for name, by in self.submodels.items() for of in by.values()}
            values = {**answer.fields, **rest, "submodels": alone}
        else:
            values = {
                "labels": _fields(self.labels),
                **rest,
                "submodels": {name: _fields(by) for name, by in self.submodels.items()},
            }
        return {k: v for k, v in values.items() if v or k != "submodels"}


@dataclass(frozen=True)
class Exam:
    """One exam's known values by a manifest's columns, paths relative to `folder`, and `arrays` by
    their name: each with its sampling rate, if it has one."""

    values: Mapping[str, Any]
    folder: Path = Path()
    arrays: Mapping[str, tuple[Any, float | None]] = field(default_factory=dict)


class LoadedModel:
    """A trained model, or the encoder of a pretraining, and the inputs that it was trained on.

    `source` is what the person called it. `name`, `labels` and `institutions` are what it was
    trained as, for and at; `inputs` what it reads, by name; `submodels` each one's input, for a
    fusion. `load_model` makes one.
    """

    def __init__(self, module: TaskModule | Pretraining, source: str) -> None:
        fused: Any = module.submodels.items() if isinstance(module, Fusion) else ()
        told = module.about if isinstance(module, Pretraining) else module.hparams["about"]
        self.module, self.source, self.name = module, source, str(told["name"])
        self.institutions: list[str] = list(told["institutions"])
        self.labels: tuple[str, ...] = tuple(told.get("labels", ()))
        self.submodels: dict[str, str] = {name: part.reads for name, part in fused}
        self._told = told
        self._parts: dict[str, TaskModule | Pretraining] = dict(fused) or {self.name: module}
        self._input_of = {name: input_of(part) for name, part in self._parts.items()}
        self.inputs: dict[str, Input] = {
            part.reads: self._input_of[name] for name, part in self._parts.items()
        }

    @classmethod
    def read(cls, checkpoint: Path, source: str, allowed: Iterable[str] = ()) -> "LoadedModel":
        """The model of a checkpoint; `allowed` are modules beside this software's own whose code it
        may name. InputError for a file that is no model's checkpoint."""
        try:
            return cls(load_trained(checkpoint, allowed), source)
        except ValueError as error:
            told = str(error).replace(str(checkpoint), source)
            raise InputError(f"model={told}") from None
        except KeyError as error:
            raise InputError(
                f"model={source}: the checkpoint does not say its {error}: no launch trained it. "
                "Give one that a launch left."
            ) from None

    @property
    def about(self) -> dict[str, Any]:
        """What the model is and what it was trained on, as plain values."""
        several = isinstance(self.module, Fusion)
        return {
            "name": self.name,
            "source": self.source,
            "kind": type(self.module).__name__,
            "labels": list(self.labels),
            "task": None if self._task is None else type(self._task).__name__.lower(),
            "thresholds": dict(zip(self.labels, self.thresholds, strict=True)),
            "institutions": list(self.institutions),
            "exams": self._told["exams"],
            "inputs": {name: input.describe() for name, input in self.inputs.items()},
            "arguments": list(self.arguments),
            **({"submodels": dict(self.submodels)} if several else {}),
            "version": self._told.get("version", "unknown"),
        }

    @property
    def _task(self) -> Task | None:
        return None if isinstance(self.module, Pretraining) else self.module.task

    @property
    def fields(self) -> tuple[str, ...]:
        """Of what an answer consists; none of a pretrained encoder."""
        return () if self._task is None else tuple(self._task.answer(0.0, float("nan")))

    @property
    def target(self) -> str:
        """Its labels, as people read them."""
        return ", ".join(self.labels)

    @property
    def called(self) -> dict[str, str]:
        """What people call what it reads, by input."""
        return {name: input.label for name, input in self.inputs.items()}

    @property
    def arguments(self) -> dict[str, str]:
        """Names by which an exam is given -> the manifest's columns that they stand for."""
        return {k: v for input in self.inputs.values() for k, v in input.arguments.items()}

    @property
    def columns(self) -> dict[str, Column]:
        """The manifest's columns of its inputs."""
        return {k: v for input in self.inputs.values() for k, v in input.columns.items()}

    @property
    def all_columns(self) -> dict[str, Column]:
        """Those, and the columns that every manifest may have."""
        return {**COMMON, **self.columns}

    @property
    def thresholds(self) -> list[float | None]:
        """Each label's operating threshold; None where the model has none."""
        if isinstance(self.module, Pretraining):
            return []
        return [of if of == of else None for of in self.module.threshold.tolist()]

    def predict(
        self, value: Any = None, *, sampling_rate_hz: float | None = None, **inputs: Any
    ) -> Prediction:
        """What the model says of one exam, in float32 on the CPU.

        A model that reads one thing takes it alone, any model takes them by the command line's
        names: `ecg`, `cxr`, `bnp`, `age`, `sex`... A file is a path. An ECG is also an array
        (12, n) in mV, leads in the standard order, with its `sampling_rate_hz`; a film also an
        array (height, width) of greys, white the highest. InputError, which says what to do, for an
        exam that can't be used, and for a pretrained encoder, which answers nothing.
        """
        return self.predict_exam(self.exam(value, sampling_rate_hz, inputs))

    def embed(
        self, value: Any = None, *, sampling_rate_hz: float | None = None, **inputs: Any
    ) -> NDArray[np.float32]:
        """What the model's last layer sees of one exam, (D,), in float32 on the CPU.

        Arguments are those of `predict`. Of a fusion it is its last hidden layer, of a pretrained
        encoder the mean over its patches. InputError also for a model that has no embedding.
        """
        return self.embed_exam(self.exam(value, sampling_rate_hz, inputs))

    def exam(self, value: Any, sampling_rate_hz: float | None, inputs: Mapping[str, Any]) -> Exam:
        """The exam that was given to `predict`, checked as if it stood in a manifest."""
        named = {name: of for name, of in inputs.items() if of is not None}
        names = list(self.arguments)
        if value is not None:
            if named or len(names) > 1:
                raise InputError(
                    f"{self.name} reads {listed(self.called.values())}: give each by its name, "
                    f"{', '.join(f'{name}=' for name in names)}."
                )
            named = {names[0]: value}
        if not named:
            raise InputError(f"Give an exam: {', '.join(f'{name}=' for name in names)}.")
        self.check_reads(named)
        values: dict[str, Any] = {}
        arrays: dict[str, tuple[Any, float | None]] = {}
        timed = False
        for name, given in named.items():
            column = self.arguments[name]
            (input,) = (of for of in self.inputs.values() if name in of.arguments)
            if not self.is_path(name):
                values[column] = self._checked(name, column, given)
            elif isinstance(given, str | os.PathLike):
                values[column] = Path(given).resolve()
            elif name == input.array:
                arrays[name] = given, sampling_rate_hz if input.timed else None
                timed |= input.timed
            else:
                raise InputError(f"{name}: give a file's path, not a {type(given).__name__}.")
        if sampling_rate_hz is not None and not timed:
            raise InputError(
                f"sampling_rate_hz={sampling_rate_hz} belongs to an array; a file states its own. "
                "Leave it out."
            )
        return Exam(values, arrays=arrays)

    def of_row(self, row: Mapping[str, Any]) -> Exam:
        """An exam from a table's row: the manifest's columns, and arrays under the names that
        `predict` has for them, an ECG's rate beside it (`ecg_sampling_rate_hz`).

        What is empty is not there, and what no input reads is left alone. InputError as `exam`.
        """
        arrays: dict[str, tuple[Any, float | None]] = {}
        values: dict[str, Any] = {}
        for input in self.inputs.values():
            for name, column in input.arguments.items():
                given = row.get(column)
                if _is_there(given):
                    path = self.is_path(name)
                    values[column] = (
                        Path(str(given)).resolve() if path else self._checked(name, column, given)
                    )
                if name == input.array and _is_there(row.get(name)):
                    if column in values:
                        raise InputError(f"{name} and {column} are both given. Leave one out.")
                    rate = row.get(f"{name}{RATE}")
                    arrays[name] = row[name], rate if _is_there(rate) else None
        return Exam(values, arrays=arrays)

    def is_path(self, name: str) -> bool:
        """Whether the argument `name` stands for a file."""
        column = self.columns.get(self.arguments[name])
        return column is not None and column.kind == "path"

    def check_reads(self, given: Mapping[str, Any], others: Iterable[str] = ()) -> None:
        """Refuse what the model would leave out of account, so that nobody takes it for counted.

        `others` are names beside its own that a person may have meant.
        """
        known = self.arguments
        for name, value in given.items():
            if name in known:
                continue
            shown = f"{name}={value}" if isinstance(value, str | int | float | Path) else name
            for input in self.inputs.values():
                if told := input.instead_of(name):
                    raise InputError(f"{shown}: {self.name} {told}")
            near = get_close_matches(name, [*known, *others], 1)
            remedy = f"Did you mean {near[0]}=?" if near else f"Leave {name}= out."
            raise InputError(
                f"{shown}: {self.name} does not read it, but {listed(self.called.values())} "
                f"({', '.join(f'{k}=' for k in known)}). {remedy}"
            )
        for input in self.inputs.values():
            absent = [name for name in input.arguments if name not in given]
            if absent and len(absent) < len(input.arguments):
                raise InputError(
                    f"{self.name} reads {listed(input.arguments)} together: give "
                    f"{listed(absent)} too."
                )

    def _checked(self, name: str, column: str, given: Any) -> float | str:
        """A value, checked as if it stood in a manifest."""
        import pandas as pd

        from datamodules.manifest import check_manifest

        row = {"institution": "here", "patient_id": "1", "exam_id": "1", column: given}
        try:
            table = check_manifest(pd.DataFrame([row]), "", self.columns)
        except InputError as error:
            problem = str(error).rpartition(f"column {column}: ")[2]
            told = problem.replace("leave it empty", "leave it out")
            raise InputError(
                f"{name}={given}: {told.replace('half of the values are below', 'it is below')}"
            ) from None
        value: float | str = table[column].item()
        if value != value:
            raise InputError(f"{name}={given} is not a number; leave it out.")
        return value

    def predict_exam(self, exam: Exam) -> Prediction:
        """As `predict`, of an exam that is already one."""
        module = self.module
        if isinstance(module, Pretraining):
            raise NoAnswerError(
                f"model={self.source}: {self.name} is a pretrained encoder, which answers nothing "
                "yet. Ask it for embeddings, or give a model that was trained on labels."
            )
        with torch.inference_mode():
            prepared, warnings = self._prepared(exam)
            batch, of_submodels = self._batch(prepared)
            values = module.task.values(module(batch).double())[0].tolist()
        if not np.isfinite(values).all():
            raise InputError("the model's output is not a number for these inputs")
        used = {self._parts[name].reads for name in prepared}
        return Prediction(
            labels=_answers(module, values),
            inputs=tuple(input for input in self.called if input in used),
            missing=tuple(input for input in self.called if input not in used),
            submodels=of_submodels,
            warnings=tuple(warnings),
            model={
                "name": self.name,
                "target": self.target,
                "source": self.source,
                "trained_on": self.institutions,
            },
        )

    def embed_exam(self, exam: Exam) -> NDArray[np.float32]:
        """As `embed`, of an exam that is already one."""
        with torch.inference_mode():
            prepared, _ = self._prepared(exam)
            batch, _ = self._batch(prepared)
            try:
                embedded = self.module.embed(batch)[0].float().numpy()
            except ValueError as error:
                raise NoAnswerError(f"model={self.source}: {self.name}: {error}") from None
        if not np.isfinite(embedded).all():
            raise InputError("the model's embedding is not of numbers for these inputs")
        return np.asarray(embedded, np.float32)

    def example(self) -> dict[str, Any]:
        """A small made-up exam as `of_row` takes it; empty where an input can't be made up."""
        examples = [input.example() for input in self.inputs.values()]
        return {k: v for of in examples for k, v in of.items()} if all(examples) else {}

    def _prepared(self, exam: Exam) -> tuple[dict[str, Tensor], list[str]]:
        """What each part of the model reads, as far as it is there, and warnings."""
        torch.set_float32_matmul_precision("highest")
        prepared: dict[str, Tensor] = {}
        warnings: dict[str, None] = {}
        for name, part in self._parts.items():
            found = _raw(self._input_of[name], exam)
            if found is None:
                continue
            raw, measured = found
            prepared[name] = self._input_of[name].prepare(raw)
            told = part.about if isinstance(part, Pretraining) else part.hparams["about"]
            warnings |= dict.fromkeys(_unlike(measured, told.get("ranges", {})))
        if not prepared:
            raise InputError(f"there is no {' and no '.join(self.called.values())}")
        return prepared, list(warnings)

    def _batch(
        self, prepared: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Answer]]]:
        """What the model's forward takes, and what a fusion's submodels say by label."""
        module = self.module
        if not isinstance(module, Fusion):
            (tensor,) = prepared.values()
            return {module.reads: tensor}, {}
        values = module.submodel_values(prepared)
        said = {}
        for number, name in enumerate(self.submodels):
            if name in prepared:
                of_labels = values[0, number].double().tolist()
                # The fusion would take a submodel's nan for a missing input.
                if not np.isfinite(of_labels).all():
                    raise InputError("the model's output is not a number for these inputs")
                said[name] = _answers(cast(TaskModule, self._parts[name]), of_labels)
        return {module.reads: values}, said


def load(model: str | Path, tracking_uri: str, allow: Iterable[str] = ()) -> LoadedModel:
    """See `experiments.load_model`."""
    allow = [allow] if isinstance(allow, str) else list(allow)
    with _checkpoint(str(model), tracking_uri) as checkpoint:
        return LoadedModel.read(checkpoint, str(model), allow)


def _checkpoint(model: str, uri: str) -> AbstractContextManager[Path]:
    if model.endswith(".ckpt") or Path(model).is_file():
        return nullcontext(Path(model))
    from experiments.tracking import find_checkpoint  # MLflow takes seconds to import

    return find_checkpoint(model, uri)


def _raw(input: Input, exam: Exam) -> tuple[Raw, dict[str, float]] | None:
    if input.array in exam.arrays:
        return input.of_array(*exam.arrays[input.array])
    return input.of_exam(exam.values, exam.folder)


def _answers(module: TaskModule, values: Iterable[float]) -> dict[str, Answer]:
    thresholds = module.threshold.tolist()
    return {
        label: Answer(module.task.answer(value, threshold))
        for label, value, threshold in zip(module.task.labels, values, thresholds, strict=True)
    }


def _fields(answers: Mapping[str, Answer]) -> dict[str, dict[str, Any]]:
    return {label: dict(answer.fields) for label, answer in answers.items()}


def _is_there(value: Any) -> bool:
    if value is None or not np.isscalar(value):
        return value is not None
    return bool(value == value)


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
