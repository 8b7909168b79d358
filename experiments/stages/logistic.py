"""Logistic regression on a blood test: a few coefficients, fitted to convergence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from sklearn.metrics import roc_auc_score

from datamodules.institution import Fitted
from datamodules.transforms import BNPPreprocessing
from experiments.config import plain
from experiments.console import say
from experiments.evaluation.threshold import youden_threshold
from experiments.processes import is_first_process
from experiments.stages.cohort import Site
from experiments.stages.evaluate import predict
from experiments.stages.finetune import Trained, about, outcome
from experiments.stages.folder import StageFolder
from experiments.stages.training import data_module, stage_run, table_trainer
from experiments.tracking import Tracking
from lightning_modules.ph import PHBNPClassifier


def fit_logistic(
    config: DictConfig,
    name: str,
    model: Mapping[str, Any],
    development: Sequence[Site],
    fitted: Fitted,
    tracking: Tracking,
    parent: str | None,
) -> Trained:
    """Fit the study's model `name` on all training exams at once, or reuse the same fitted before.

    The first process does it alone; others wait for it.
    """
    folder = StageFolder(
        Path(config.cache) / "stages",
        "logistic",
        {
            "name": name,  # the checkpoint tells it
            "classifier": model["classifier"],
            "target": config.target,
            "bnp": plain(config.bnp),
            "preprocessing": fitted.preprocessing.as_dict(),
            "data": [site.digest_of("bnp", "target") for site in development],
        },
    )
    checkpoint = folder.path / "model.ckpt"
    if not is_first_process():
        return Trained(checkpoint, folder.finished_by_first()["run"])
    with folder.alone():
        if (record := folder.record) is not None:
            say(f"{name}: reused from run {record['run']} ({outcome(record)})")
            tracking.tags(parent, {f"reused.{name}": str(record["run"])})
            return Trained(checkpoint, record["run"])

        assert isinstance(fitted.preprocessing, BNPPreprocessing)
        exams = sum(len(site.exams) for site in development)
        data = data_module(
            config,
            development,
            [],
            preprocessing=fitted.preprocessing,
            batch_size=exams,
            labelled=True,
        )
        with stage_run(
            tracking,
            folder,
            f"fit logistic regression · {name}",
            parent=parent,
            tags={
                "stage": "fit",
                "model": name,
                "development": ", ".join(site.name for site in development),
            },
            params={"bnp": plain(config.bnp)},
        ) as run:
            targets = data.train_targets
            names = fitted.preprocessing.names
            module = PHBNPClassifier(
                features=len(names),
                penalty=config.bnp.penalty,
                preprocessing=fitted.preprocessing.as_dict(),
                about=about(config, name, data, fitted),
            )
            fit = table_trainer(
                folder.path, [], precision="64-true", max_epochs=1, logger=tracking.logger(run)
            )
            fit.fit(module, data)
            predictions = predict(fit, module, data)
            validation = predictions[predictions["split"] == "val"]
            threshold = youden_threshold(validation["target"], validation["probability"])
            module.set_threshold(threshold)
            fit.save_checkpoint(checkpoint, weights_only=True)
            record = {
                "run": run,
                "uri": tracking.uri,
                "labels": len(targets),
                "val_auroc": float(roc_auc_score(validation["target"], validation["logit"])),
                "threshold": threshold,
            }
            say(f"{name}: fitted on {record['labels']} labelled exams, {outcome(record)}")
            coefficients = np.ravel(module.network.weight.detach().numpy()).tolist()
            tracking.metrics(
                run,
                {
                    "val/auroc_best": record["val_auroc"],
                    "threshold": threshold,
                    "intercept": module.network.bias.item(),
                    **{
                        f"coefficient/{feature}": value
                        for feature, value in zip(names, coefficients, strict=True)
                    },
                },
            )
            tracking.file(run, checkpoint, "checkpoint")
            folder.finish(record)
        return Trained(checkpoint, run)
