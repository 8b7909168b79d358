"""A study's values, made of its configuration once, before anything long begins."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from datamodules.errors import InputError
from datamodules.inputs.input import Fitted, Input
from datamodules.manifest import OF_THE_ECHO, Column, number_of, target_of
from experiments.config import plain
from experiments.evaluation.errors import check_thresholds
from experiments.processes import Processes
from experiments.schema import Config
from experiments.stages.cohort import Question
from experiments.stages.pretrain import pretraining_class
from experiments.stages.stage import Lab
from experiments.stages.train import Model, Models
from experiments.stages.training import OURS, Compute
from experiments.tracking import Tracking
from lightning_modules import classifier, lvsd, ph
from lightning_modules.classifier import TaskModule
from lightning_modules.networks.network import load_published_weights
from lightning_modules.target import OURS as OWN_PACKAGES
from lightning_modules.target import resolve, targets_in
from lightning_modules.tasks.task import Task

Made = TypeVar("Made")

MODELS = {
    name: f"{module.__name__}.{name}"
    for module in (lvsd, ph, classifier)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, TaskModule)
}


@dataclass(frozen=True)
class Plan:
    """What a study asks, and how its models come to be.

    `fusion`: the settings of how they are put together, if they are. `judging`: the settings that
    judge a pretraining. `allowed`: modules beside this software's own that the configuration names.
    """

    question: Question
    models: Models
    fusion: Mapping[str, Any] | None
    judging: Mapping[str, Any]
    allowed: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the inputs that its models read, in their order."""
        return tuple(self.question.inputs)

    def lab(self, config: Config, tracking: Tracking, processes: Processes) -> Lab:
        """What its stages work with."""
        return Lab(
            Path(config.cache) / "stages",
            tracking,
            processes,
            _lightnings(config),
            config.trainer.loading_workers,
            config.trainer.test_batch_size,
            self.allowed,
            self.judging,
        )


def plan_of(config: Config) -> Plan:
    """The study's values, each network built once without memory.

    Raises InputError for what can't be imported or made, and for settings that do not fit.
    """
    known = {name: _input(name, values) for name, values in plain(config.inputs).items()}
    columns = _columns(known)
    task = _made("task", lambda: _task(plain(config.task), config.target))
    if not task.classed:
        check_thresholds(config.statistics.truth_thresholds, config.target)
    rules = {"lvsd": plain(config.lvsd), "ph": plain(config.ph)}
    models = {
        name: _model(config, name, model, known) for name, model in plain(config.models).items()
    }
    inputs = {model.reads: known[model.reads] for model in models.values()}
    pretraining = plain(config.pretrain)
    judging = _made("pretrain", lambda: pretraining_class(pretraining)).judging
    study = Models(
        task,
        inputs,
        models,
        {name: value for name, value in pretraining.items() if name not in judging},
        config.seed,
        Compute.of(_lightnings(config)),
    )
    for name in models:
        _check_model(study, name)
    target = partial(target_of if task.classed else number_of, **rules)
    return Plan(
        Question(inputs, task, target, columns),
        study,
        None if config.fusion is None else plain(config.fusion),
        {name: pretraining[name] for name in judging},
        tuple(sorted(_strangers(plain(config)))),
    )


def _lightnings(config: Config) -> dict[str, Any]:
    return {name: value for name, value in plain(config.trainer).items() if name not in OURS}


def _made(where: str, make: Callable[[], Made]) -> Made:
    try:
        return make()
    except (ValueError, TypeError, AssertionError, ArithmeticError, IndexError, KeyError) as error:
        text = f"{error} is not given" if isinstance(error, KeyError) else str(error)
        ending = "" if text.endswith((".", "?")) else "."
        raise InputError(f"{where}: {text}{ending}") from None


def _input(name: str, values: Mapping[str, Any]) -> Input:
    def make() -> Input:
        if "_target_" not in values:
            raise ValueError("_target_ must name the input's class, as package.module.Class")
        kind = resolve(values["_target_"])
        if not (isinstance(kind, type) and issubclass(kind, Input)):
            raise ValueError(f"_target_={values['_target_']} is not an Input")
        given = {name: value for name, value in values.items() if name != "_target_"}
        _check_fields(kind, given)
        made: Input = kind.from_dict(given)
        return made

    return _made(f"inputs.{name}", make)


def _columns(inputs: Mapping[str, Input]) -> dict[str, Column]:
    """The manifest's columns of all inputs; InputError where two inputs go by one name."""
    columns: dict[str, Column] = {}
    known: dict[str, tuple[str, object]] = {}
    for name, input in inputs.items():
        own: dict[str, object] = {f"{argument}=": of for argument, of in input.arguments.items()}
        own |= input.columns
        for what, of in own.items():
            first, as_first = known.setdefault(what, (name, of))
            if as_first is not of and as_first != of:
                raise InputError(
                    f"inputs.{first} and inputs.{name} are two inputs that take {what} for "
                    "different things. Rename it in one of them, or leave one out."
                )
        columns |= input.columns
    return columns


def _task(values: Mapping[str, Any], labels: Sequence[str]) -> Task:
    kind = resolve(values["_target_"])
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"_target_={values['_target_']} is not a Task")
    others = {name: value for name, value in values.items() if name != "_target_"}
    _check_fields(kind, others, taken={"labels", *kind.learned})
    made: Task = kind(labels=tuple(labels), **others)
    return made


def _check_fields(
    kind: Any, given: Mapping[str, Any], taken: AbstractSet[str] = frozenset()
) -> None:
    """Raise ValueError for a setting that a dataclass does not have, or that it lacks."""
    known = {field.name: field for field in fields(kind) if field.name not in taken}
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            there = f"There are {', '.join(known)}." if known else "It has none."
            hint = f"Did you mean {near[0]}?" if near else there
            raise ValueError(f"{kind.__name__} has no setting {name}. {hint}")
    needed = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING and name not in given
    ]
    if needed:
        raise ValueError(f"{', '.join(needed)} must be given to {kind.__name__}")


def _model(
    config: Config, name: str, model: Mapping[str, Any], inputs: Mapping[str, Input]
) -> Model:
    where, reads = f"models.{name}", model["input"]
    if reads not in inputs:
        near = get_close_matches(str(reads), inputs, 1)
        raise InputError(
            f"{where}.input={reads}: it is one of {', '.join(inputs)} (inputs)."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    recipe = plain(config.recipes).get(reads)
    if recipe is None:
        raise InputError(f"recipes.{reads} must say how models of {reads} are trained.")
    return Model(
        _made(where, lambda: _model_class(model["classifier"])),
        reads,
        model["network"],
        _changed(_of_origin(recipe, model["pretrained"]), model["finetune"]),
        model["pretrained"],
    )


def _of_origin(recipe: Mapping[str, Any], pretrained: bool) -> dict[str, Any]:
    """A recipe for a model that starts from something pretrained, or from scratch."""
    both = {name: value for name, value in recipe.items() if name != "from_pretrained"}
    return _changed(both, recipe.get("from_pretrained", {})) if pretrained else both


def _changed(recipe: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a model changes it: of a group of settings, those that it names."""
    changed = dict(recipe)
    for name, value in own.items():
        both = isinstance(value, dict) and isinstance(recipe.get(name), dict)
        changed[name] = {**recipe[name], **value} if both else value
    return changed


def _model_class(name: str) -> type[TaskModule]:
    """The class of this dotted name; ValueError where it is no model's."""
    try:
        kind = resolve(name)
    except ValueError as error:
        near = get_close_matches(name.rpartition(".")[2], MODELS, 1)
        hint = f". Did you mean {MODELS[near[0]]}?" if near else ""
        raise ValueError(str(error).replace("_target_=", "classifier=") + hint) from None
    if not (isinstance(kind, type) and issubclass(kind, TaskModule)):
        raise ValueError(f"classifier={name} is not a model that can be trained")
    return kind


def _check_model(models: Models, name: str) -> None:
    """Build the model, and its pretraining if it starts from one, without memory."""
    model, where = models.models[name], f"models.{name}"
    input = models.inputs[model.reads]
    unfitted = Fitted(input, {}, input.example_statistics())
    starts = models.starts_from_pretraining(model)

    def build() -> None:
        if model.recipe.get("max_epochs") == model.recipe.get("max_steps") == -1:
            raise ValueError("training never ends: give max_steps or max_epochs")
        stage = models.stage(name, model, unfitted, ())
        _made(
            f"{where}.finetune.augmentation",
            lambda: input.augmentation(model.recipe.get("augmentation", {})),
        )
        two = np.repeat([[0.0], [1.0]], len(models.task.labels), axis=1)
        if starts:
            if model.network is None:
                raise ValueError(
                    "pretrained=true: a model without a network can't be pretrained. Set it to "
                    "false"
                )
            pretraining = models.pretrain_stage(model, unfitted, ())
            _made(
                "pretrain.augmentation",
                lambda: input.augmentation(pretraining.settings.get("augmentation", {})),
            )
            with torch.device("meta"):
                _made("pretrain", pretraining.module)
        # Published weights can't be had on no device: where they are asked for, fetch them now.
        published = model.pretrained and not starts
        with torch.device("cpu" if published else "meta"):
            module = stage.module(two)
            if published:
                load_published_weights(module.network)

    try:
        _made(where, build)
    except RuntimeError as error:
        raise InputError(f"{where}: {error}.") from None


def _strangers(values: Any) -> set[str]:
    """The modules that a configuration names beside this software's own."""
    named = [*targets_in(values), *(model["classifier"] for model in values["models"].values())]
    modules = {target.rpartition(".")[0] for target in named}
    return {module for module in modules if module.partition(".")[0] not in OWN_PACKAGES}


def rule_of(config: Config, task: Task, label: str) -> str:
    """How a label's target follows from measurements, in words."""
    if not task.classed:
        measured = f"the manifest's column {label}"
        if label not in OF_THE_ECHO:
            return measured
        return measured + _window(plain(config)[OF_THE_ECHO[label]]["echo_within_days"])
    if label == "lvsd":
        rule = f"LVEF below {config.lvsd.lvef_below_percent:g} %"
        return rule + _window(config.lvsd.echo_within_days)
    if label == "ph":
        return (
            "the manifest's column ph, or where that is empty PASP of "
            f"{config.ph.pasp_at_least_mmhg:g} mmHg or more, or TR velocity above "
            f"{config.ph.tr_velocity_above_m_s:g} m/s" + _window(config.ph.echo_within_days)
        )
    if config.cohort.source == "ptbxl":
        return "stated in scp_codes, whatever its likelihood"
    return f"the manifest's column {label}"


def _window(days: float | None) -> str:
    return "" if days is None else f", echocardiogram within {days:g} days of the exam"
