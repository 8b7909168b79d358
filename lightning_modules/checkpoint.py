"""From a checkpoint, whatever classifier it holds."""

from pathlib import Path

import torch

from lightning_modules.classifier import Classifier
from lightning_modules.lvsd import LVSDClassifier
from lightning_modules.ph import SUBMODELS, PHFusion

CLASSIFIERS: dict[str, type[Classifier]] = {
    "LVSDClassifier": LVSDClassifier,
    **SUBMODELS,
    "PHFusion": PHFusion,
}


def load_classifier(path: Path) -> Classifier:
    """The classifier of a checkpoint, on the CPU and in evaluation mode.

    Raises ValueError, naming the file, where it is not there, no checkpoint, not one of a
    classifier here, or of another version of it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is no pickle can raise anything
        raise ValueError(
            f"{path}: not a checkpoint that can be read ({type(error).__name__})"
        ) from None
    name = checkpoint.get("classifier") if isinstance(checkpoint, dict) else None
    if name not in CLASSIFIERS:
        raise ValueError(f"{path}: not a checkpoint of one of {', '.join(CLASSIFIERS)}")
    try:
        module = CLASSIFIERS[name](**checkpoint["hyper_parameters"])
        module.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: a checkpoint of another version of {name} ({error}). "
            "Load it with the version of this software that wrote it."
        ) from None
    return module.eval()
