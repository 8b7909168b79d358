"""From a checkpoint, whatever model it holds, and nothing else: it runs no stranger's code."""

from collections.abc import Iterable
from pathlib import Path

import torch

from lightning_modules.classifier import TaskModule
from lightning_modules.pretraining.pretraining import PRETRAINING, Pretraining
from lightning_modules.target import check_allowed, resolve

NOT_OURS = "not a checkpoint of a model that this software trained"


def load_classifier(path: Path, allowed: Iterable[str] = ()) -> TaskModule:
    """The model of a checkpoint as `load_trained` gives it; ValueError for a pretraining's too."""
    module = load_trained(path, allowed)
    if not isinstance(module, TaskModule):
        raise ValueError(f"{path}: a pretraining's checkpoint, which answers nothing")
    return module


def load_trained(path: Path, allowed: Iterable[str] = ()) -> TaskModule | Pretraining:
    """The model or pretraining of a checkpoint, on the CPU and in evaluation mode.

    `allowed`: modules or packages, beside this software's own, whose classes it may name. Raises
    ValueError, naming the file, where it is not there, no checkpoint, not one of a model here, of
    another version of it, or names code that is not allowed.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is no pickle can raise anything
        raise ValueError(
            f"{path}: not a checkpoint that can be read ({type(error).__name__})"
        ) from None
    known = checkpoint if isinstance(checkpoint, dict) else {}
    base: type[TaskModule] | type[Pretraining]
    base = Pretraining if PRETRAINING in known else TaskModule
    name = known.get(PRETRAINING if base is Pretraining else "classifier")
    if not isinstance(name, str) or not isinstance(known.get("hyper_parameters"), dict):
        raise ValueError(f"{path}: {NOT_OURS}")
    values = known["hyper_parameters"]
    try:
        check_allowed([values, known.get("input"), {"_target_": name}], allowed)
        kind = resolve(name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(f"{path}: {NOT_OURS}")
    try:
        module: TaskModule | Pretraining = kind(**values)
        module.load_state_dict(known["state_dict"])
        if isinstance(module, Pretraining):
            module.input, module.about = known["input"], known["about"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: a checkpoint of another version of {name} ({error}). "
            "Load it with the version of this software that wrote it."
        ) from None
    return module.eval()
