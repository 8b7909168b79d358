"""What a person launches, and the models that a launch trained, from Python."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import
    from experiments.inference import LoadedModel

TRACKING = "sqlite:///mlruns/mlflow.db"


def load_model(
    model: str | Path, *, tracking_uri: str = TRACKING, allow: Iterable[str] = ()
) -> "LoadedModel":
    """A trained model, to `predict` and to `embed` with; a pretrained encoder, to `embed` with.

    `model` is the id of an MLflow run (of a training, a pretraining, or of a launch, which stands
    for its fusion or its only model), a registered model (NAME, NAME/VERSION or NAME@ALIAS), or a
    checkpoint's file; `tracking_uri` is where runs and registered models are. `allow` names modules
    or packages, beside this software's own, whose code the checkpoint may run. Raises
    `datamodules.errors.InputError`, which says what to do, where that leads to no model.
    """
    # As experiments.run sets it, before torch is loaded: threads that spin slow each other down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from experiments.inference import load

    return load(model, tracking_uri, allow)
