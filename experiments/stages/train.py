"""All of a study's models, trained on one set of development institutions."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from datamodules.institution import Fitted
from experiments.stages.cohort import Site
from experiments.stages.finetune import Trained, finetune
from experiments.stages.logistic import fit_logistic
from experiments.stages.preprocess import fit_preprocessing
from experiments.stages.pretrain import Pretrained, pretrain
from experiments.tracking import MODEL_TAG, Tracking
from lightning_modules.checkpoint import CLASSIFIERS


def train_models(
    config: DictConfig,
    models: Mapping[str, Any],
    development: Sequence[Site],
    tracking: Tracking,
    run: str | None,
) -> dict[str, Trained]:
    """Fit preprocessing, pretrain where a model asks for it, and train: all on `development`."""
    fitted: dict[str, Fitted] = {}
    pretrained: Pretrained | None = None
    trained = {}
    for name, model in models.items():
        input = CLASSIFIERS[model["classifier"]].input
        if input not in fitted:
            fitted[input] = fit_preprocessing(config, input, development)
        of_input = fitted[input]
        if input == "bnp":
            trained[name] = fit_logistic(config, name, model, development, of_input, tracking, run)
            continue
        start = None
        if input == "ecg" and model["pretrained"]:
            pretrained = pretrained or pretrain(config, development, of_input, tracking, run)
            start = pretrained
        trained[name] = finetune(config, name, model, development, of_input, start, tracking, run)
    # By these, `experiments.predict` finds a launch's models.
    tracking.tags(run, {f"{MODEL_TAG}{name}": str(of.run) for name, of in trained.items()})
    return trained
