"""What leave-site-out folds say together of models that were fitted anew in each.

Each fold's thresholds and recalibrations are those of its own development validation exams, and
are applied to its own external institution; then all external exams are one test set.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.calibration import COLUMNS as CALIBRATION_COLUMNS
from experiments.evaluation.calibration import (
    calibration_table,
    recalibrated,
    reliability_curves,
)
from experiments.evaluation.operating import COLUMNS as OPERATING_COLUMNS
from experiments.evaluation.operating import chosen_thresholds, operating_points
from experiments.evaluation.predictions import EXTERNAL
from experiments.evaluation.sets import validation_exams
from lightning_modules.tasks.decision import METHODS, UNCHANGED

_TEST_SET = ("model", "institution", "role", "n", "positives")


def operating_points_of_folds(
    folds: Sequence[pd.DataFrame],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    sensitivity: float,
) -> pd.DataFrame:
    """As `operating_points`, of all folds' external exams; `folds` are their predictions tables.

    `threshold` is that of the institution's fold, NaN in the pooled row, where it differs. Test
    sets with an exam of a fold without a threshold, the pooled one among them, are not estimable.
    """
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    called: dict[str, list[pd.DataFrame]] = {}
    thresholds: dict[tuple[str, str, str], float] = {}
    for fold in folds:
        external = _external([fold])
        for model, exams in validation_exams(fold).items():
            part = external[external["model"] == model]
            for point, threshold in chosen_thresholds(exams, sensitivity).items():
                positive = (part["probability"] >= threshold).astype("float64")
                called.setdefault(point, []).append(part.assign(probability=positive))
                for institution in part["institution"].unique():
                    thresholds[model, institution, point] = threshold
    # without validation exams there is no threshold yet
    table = operating_points(_ordered(_external(folds), folds), sensitivity=sensitivity, **options)
    table = table.set_index([*_TEST_SET, "operating_point"])
    for point, parts in called.items():
        verdicts = pd.concat(parts, ignore_index=True)
        cut = dict.fromkeys(verdicts["model"].unique(), 0.5)
        found = operating_points(verdicts, thresholds=cut, **options)
        keys = zip(found["model"], found["institution"], strict=True)
        found = found.assign(
            operating_point=point,
            threshold=[thresholds.get((*key, point), np.nan) for key in keys],
        ).set_index(table.index.names)
        table.update(found[found.index.isin(table.index)])  # their n is that of all exams
    return table.reset_index()[list(OPERATING_COLUMNS)]


def calibration_of_folds(
    folds: Sequence[pd.DataFrame], *, confidence: float, resamples: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As `calibration_table` and `reliability_curves`, of all folds' external exams.

    A model's recalibration may be impossible in some folds: test sets with an exam of theirs, the
    pooled one among them, are then not estimable and have no curve of it.
    """
    external = _ordered(_external(folds), folds)
    # without validation exams no recalibration is estimable yet
    table = calibration_table(external, confidence=confidence, resamples=resamples, seed=seed)
    table = table.set_index([*_TEST_SET, "recalibration"])
    curves = [reliability_curves(external, confidence=confidence, resamples=resamples, seed=seed)]
    recalibrated_folds = [recalibrated(fold) for fold in folds]
    for method in METHODS[1:]:
        after = _ordered(_external([tables[method] for tables in recalibrated_folds]), folds)
        if after.empty:
            continue
        found = calibration_table(after, confidence=confidence, resamples=resamples, seed=seed)
        found = found[found["recalibration"] == UNCHANGED].assign(recalibration=method)
        found = found.set_index(table.index.names)
        complete = found[found.index.isin(table.index)]  # their n is that of all exams
        table.update(complete)
        drawn = reliability_curves(after, confidence=confidence, resamples=resamples, seed=seed)
        named = complete.index.to_frame(index=False)[["model", "institution", "role"]]
        curves.append(drawn.assign(recalibration=method).merge(named))
    return table.reset_index()[list(CALIBRATION_COLUMNS)], pd.concat(curves, ignore_index=True)


def _external(folds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    together = pd.concat(folds, ignore_index=True)
    return together[together["split"] == EXTERNAL]


def _ordered(predictions: pd.DataFrame, folds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Models in the order of the first fold."""
    models = list(dict.fromkeys(model for fold in folds for model in fold["model"].unique()))
    place = {model: number for number, model in enumerate(models)}
    return predictions.sort_values("model", key=lambda m: m.map(place), kind="stable")
