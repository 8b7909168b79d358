"""The statistics for whoever has arrays: of one model, or of two, on one set of exams.

Each is what a report has of the same exams. `patient` [n] says whose an exam is; without it every
exam is another patient's. `strata` [n] are the institutions of exams that are put together:
patients are resampled within them, and a patient id holds within one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from experiments.evaluation.agreement import agreement
from experiments.evaluation.auroc import Estimate, auroc_interval
from experiments.evaluation.calibration import DECOMPOSITION, STATISTICS, calibration_table
from experiments.evaluation.comparison import compare
from experiments.evaluation.heterogeneity import Pooled, logit_errors, pool
from experiments.evaluation.predictions import EXTERNAL
from experiments.evaluation.reader_study import (
    ReaderStudy,
    analyse,
    check_readings,
    read_readings,
)
from lightning_modules.tasks.decision import UNCHANGED, logit_of

CONFIDENCE, RESAMPLES, SEED = 0.95, 2000, 0


@dataclass(frozen=True, slots=True)
class Difference:
    """Two AUROCs on the same exams and their difference, a - b; None where not estimable."""

    auroc_a: float | None
    auroc_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    z: float | None
    p: float | None
    n: int
    method: str


def auroc_of(
    target: ArrayLike,
    score: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    strata: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Estimate:
    """The AUROC of scores [n] for targets [n] (0 or 1), with its interval: `auroc_interval`.

    Any scores that rise with the target will do. ValueError for other targets, and for NaN.

    >>> target = [0, 0, 0, 0, 0, 1, 0, 1, 1, 1]
    >>> score = [0.1, 0.2, 0.2, 0.3, 0.4, 0.35, 0.6, 0.7, 0.8, 0.9]
    >>> found = auroc_of(target, score)
    >>> print(f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f}), {found.method}")
    0.917 (0.523-0.980), adjusted DeLong
    >>> auroc_of(target, score, patient=[1, 1, 2, 2, 3, 3, 4, 4, 5, 5]).method
    'patient-clustered bootstrap'
    """
    patients = np.arange(np.size(target)) if patient is None else patient
    return auroc_interval(
        target,
        score,
        patients,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        strata=strata,
    )


def auroc_difference(
    target: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    strata: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """Two models' AUROCs on the same exams [n], paired, as `compare` does.

    >>> target = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    >>> a = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.45, 0.55, 0.7, 0.8, 0.9, 1.0]
    >>> b = [0.3, 0.9, 0.2, 0.6, 0.1, 0.5, 0.4, 0.2, 0.8, 0.7, 1.0, 0.6]
    >>> found = auroc_difference(target, a, b)
    >>> print(f"{found.difference:.3f} ({found.low:.3f} to {found.high:.3f}), p = {found.p:.2f}")
    0.222 (-0.103 to 0.547), p = 0.18
    """
    table = _table(target, {"a": score_a, "b": score_b}, patient, strata)
    rows = compare(table, confidence=confidence, resamples=resamples, seed=seed)
    row = rows.iloc[-1].to_dict()  # the pooled one, where there are strata

    def known(name: str) -> float | None:
        return float(row[name]) if pd.notna(row[name]) else None

    return Difference(
        known("auroc_a"),
        known("auroc_b"),
        known("difference"),
        known("difference_low"),
        known("difference_high"),
        known("z"),
        known("p"),
        int(row["n"]),
        str(row["method"]),
    )


def calibration_of(
    target: ArrayLike,
    probability: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    strata: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """brier, scaled_brier, slope, intercept, ece and observed_expected of probabilities [n], each
    with `_low` and `_high`, the Brier score's parts and `method`: see `calibration_table`.

    NaN where not estimable. ValueError for what is no probability.

    >>> target = [0, 0, 1, 0, 1, 0, 1, 1]
    >>> found = calibration_of(target, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9])
    >>> print(f"{found['brier']:.3f}, {found['observed_expected']:.2f}")
    0.176, 1.08
    >>> print(f"slope {found['slope']:.2f} ({found['slope_low']:.2f} to {found['slope_high']:.2f})")
    slope 1.27 (-0.60 to 3.15)
    """
    values = np.asarray(probability, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a probability is not between 0 and 1")
    table = _table(target, {"a": values}, patient, strata)
    rows = calibration_table(table, confidence=confidence, resamples=resamples, seed=seed)
    row = rows[rows["recalibration"] == UNCHANGED].iloc[-1].to_dict()
    names = [name + end for name in STATISTICS for end in ("", "_low", "_high")]
    numbers = {name: float(row[name]) for name in (*names, *DECOMPOSITION)}
    return {**numbers, "method": str(row["method"])}


def pooled_auroc(estimates: Iterable[Estimate], *, confidence: float = CONFIDENCE) -> Pooled:
    """AUROCs of several institutions (`auroc_of`, at the same `confidence`), by random effects.

    Pooled by `pool` on the logit scale, of which `error` and `tau_squared` stay; the rest is put
    back. Those that are not estimable, or 0 or 1, are left out, and `k` counts the others;
    ValueError where there is none.

    >>> from experiments.evaluation.auroc import Estimate
    >>> at = [(0.80, 0.70, 0.87), (0.90, 0.85, 0.93), (0.75, 0.60, 0.86)]
    >>> found = pooled_auroc([Estimate(*one, 100, 20, "") for one in at])
    >>> print(f"{found.estimate:.3f} ({found.low:.3f}-{found.high:.3f}), I2 {found.i_squared:.2f}")
    0.832 (0.544-0.954), I2 0.79
    """
    usable = [of for of in estimates if of.value is not None and 0 < of.value < 1]
    if not usable:
        raise ValueError("none of the AUROCs is estimable and between 0 and 1")
    values, lows, highs = (
        np.array([getattr(of, name) for of in usable], dtype=np.float64)
        for name in ("value", "low", "high")
    )
    found = pool(
        logit(values), logit_errors(lows, highs, confidence=confidence), confidence=confidence
    )
    return replace(
        found,
        estimate=float(expit(found.estimate)),
        low=float(expit(found.low)),
        high=float(expit(found.high)),
        predicted_low=float(expit(found.predicted_low)),
        predicted_high=float(expit(found.predicted_high)),
    )


def agreement_of(
    truth: ArrayLike,
    estimate: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    strata: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """How estimates [n] of a number agree with what was measured [n]: `agreement`.

    >>> found = agreement_of([50, 55, 60, 65, 70], [52, 54, 61, 68, 70])
    >>> print(f"bias {found['bias']:.1f} ({found['bias_low']:.1f} to {found['bias_high']:.1f})")
    bias 1.0 (-1.0 to 3.0)
    >>> print(f"{found['lower_limit']:.1f} to {found['upper_limit']:.1f}, MAE {found['mae']:.1f}")
    -2.1 to 4.1, MAE 1.4
    """
    return agreement(
        truth,
        estimate,
        patient,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        strata=strata,
    )


def reader_study_of(
    readings: pd.DataFrame | Path | str, *, threshold: float = 0.5, confidence: float = CONFIDENCE
) -> ReaderStudy:
    """Readers without and with a model: `analyse` of a table, or a file, of their readings.

    A row a reader, case and arm ("without" or "with"): reader, case, arm, reading, truth.
    InputError, which lists every row that can't be used.

    >>> import itertools, pandas as pd
    >>> rows = [
    ...     {"reader": reader, "case": case, "arm": arm, "truth": case % 2,
    ...      "reading": 0.2 + 0.5 * (case % 2) * (arm == "with") + 0.05 * ((case * reader) % 5)}
    ...     for reader, case, arm in itertools.product((1, 2, 3), range(20), ("without", "with"))
    ... ]
    >>> study = reader_study_of(pd.DataFrame(rows))
    >>> study.arms.query("metric == 'sensitivity'")[["arm", "mean"]].round(2).to_dict("list")
    {'arm': ['without', 'with'], 'mean': [0.0, 1.0]}
    """
    if isinstance(readings, pd.DataFrame):
        checked = check_readings(readings, "readings")
    else:
        checked = read_readings(Path(readings))
    return analyse(checked, threshold=threshold, confidence=confidence)


def _table(
    target: ArrayLike,
    scores: dict[str, ArrayLike],
    patient: ArrayLike | None,
    strata: ArrayLike | None,
) -> pd.DataFrame:
    """The scores as predictions of external exams, an institution a stratum."""
    labels = np.asarray(target)
    n = labels.size
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("a target is 0 or 1")
    columns = {"institution": strata, "patient_id": patient, **scores}
    for name, values in columns.items():
        if values is not None and np.shape(values) != (n,):
            raise ValueError(f"{name} {np.shape(values)} must be [{n}], as target is")
    tables = []
    for model, score in scores.items():
        values = np.asarray(score, dtype=np.float64)
        if np.isnan(values).any():
            raise ValueError("a score is NaN")
        tables.append(
            pd.DataFrame(
                {
                    "model": model,
                    "label": "target",
                    "institution": np.repeat("", n) if strata is None else np.asarray(strata),
                    "split": EXTERNAL,
                    "patient_id": np.arange(n) if patient is None else np.asarray(patient),
                    "exam_id": np.arange(n),
                    "target": labels.astype(np.int64),
                    "logit": logit_of(np.clip(values, 0, 1)),
                    "probability": values,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
