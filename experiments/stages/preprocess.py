"""What is fitted on training exams before any network: normalisation, and the inputs' ranges."""

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from datamodules.inputs import PREPROCESSING, Preprocessing
from datamodules.institution import Fitted
from datamodules.transforms import BNPPreprocessing, CXRPreprocessing, ECGPreprocessing
from experiments.config import plain
from experiments.processes import is_first_process
from experiments.stages.cohort import Site
from experiments.stages.folder import StageFolder
from experiments.stages.training import data_module


def unfitted_preprocessing(config: DictConfig, input: str) -> Preprocessing:
    """The configured preprocessing before it has seen an exam. ValueError where it can't be."""
    if input == "cxr":
        return CXRPreprocessing(config.cxr.size)
    if input == "bnp":
        return BNPPreprocessing(config.bnp.marker, config.bnp.age, config.bnp.sex)
    ecg = plain(config.ecg)
    return ECGPreprocessing(
        **{key: ecg[key] for key in ECGPreprocessing.__dataclass_fields__ if key in ecg}
    )


def fit_preprocessing(config: DictConfig, input: str, development: Sequence[Site]) -> Fitted:
    """The input's preprocessing, fitted on development training exams; reused if made before."""
    unfitted = unfitted_preprocessing(config, input)
    folder = StageFolder(
        Path(config.cache) / "stages",
        "preprocess",
        {
            "preprocessing": unfitted.as_dict(),
            "exams": config.ecg.statistics_exams,
            "data": [site.digest_of(input) for site in development],
        },
    )
    with folder.alone():
        record = folder.record if is_first_process() else folder.finished_by_first()
        if record is None:
            data = data_module(
                config,
                development,
                [],
                preprocessing=unfitted,
                batch_size=config.trainer.test_batch_size,
                labelled=False,
            )
            fitted = data.fit_statistics(config.ecg.statistics_exams)
            covariance = fitted.lead_covariance
            record = {
                "preprocessing": fitted.preprocessing.as_dict(),
                "ranges": fitted.ranges,
                "lead_covariance": None if covariance is None else covariance.tolist(),
            }
            folder.finish(record)
    covariance = record["lead_covariance"]
    return Fitted(
        PREPROCESSING[input].from_dict(record["preprocessing"]),
        {name: (low, high) for name, (low, high) in record["ranges"].items()},
        None if covariance is None else torch.tensor(covariance),
    )
