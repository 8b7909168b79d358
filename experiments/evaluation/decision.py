"""Decision curves: whether acting on a model does more good than acting on all, or on nobody."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from experiments.evaluation.auroc import is_estimable
from experiments.evaluation.bootstrap import indicator, percentiles
from experiments.evaluation.sets import exam_sets

COLUMNS = (
    "model", "institution", "role", "n", "positives", "threshold", "net_benefit",
    "net_benefit_low", "net_benefit_high", "standardised", "standardised_low", "standardised_high",
    "treat_all", "treat_none",
)  # fmt: skip


def decision_curves(
    predictions: pd.DataFrame,
    *,
    thresholds: ArrayLike,
    confidence: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """A row a model, test set (those of `summarise`) and threshold probability, with COLUMNS.

    `thresholds` [k] rise, above 0 and below 1. The net benefit of treating exams with a
    probability >= t is TP/n - FP/n x t/(1 - t) (Vickers & Elkin, Med Decis Making 2006;26:565);
    `treat_all` is that of treating every exam, `treat_none` 0. The standardised net benefit is the
    share of the largest possible one, the prevalence (Kerr et al., J Clin Oncol 2016;34:2534).
    Bands are percentiles of the patients' bootstrap, threshold by threshold. NaN where
    `is_estimable` says that the AUROC is not estimable either.
    """
    cuts = np.asarray(thresholds, dtype=np.float64)
    if cuts.ndim != 1 or not ((cuts > 0) & (cuts < 1)).all() or (np.diff(cuts) <= 0).any():
        raise ValueError("threshold probabilities rise from above 0 to below 1")
    tables = []
    for exams in exam_sets(predictions):
        table = pd.DataFrame(exams.row, index=range(cuts.size)).assign(threshold=cuts)
        if is_estimable(exams.target, exams.cluster):
            # each exam counts at all thresholds up to its own: sums by own, cumulated afterwards
            passed = np.searchsorted(cuts, exams.probability, side="right")
            cell = passed + (cuts.size + 1) * exams.target
            cells = indicator(cell, 2 * (cuts.size + 1))
            once = np.bincount(cell, minlength=cells.shape[1])[None].astype(np.float64)
            net, standardised, all_treated = _net_benefits(once, cuts)
            resampled = _net_benefits(exams.resampled_sums(cells, resamples, seed), cuts)
            columns = {"treat_all": all_treated[0], "treat_none": 0.0}
            for name, value, values in (
                ("net_benefit", net, resampled[0]),
                ("standardised", standardised, resampled[1]),
            ):
                low, high = percentiles(values, confidence=confidence)
                columns |= {name: value[0], f"{name}_low": low, f"{name}_high": high}
            table = table.assign(**columns)
        tables.append(table.reindex(columns=list(COLUMNS)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def _net_benefits(
    sums: NDArray[np.float64], cuts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Net benefit, standardised net benefit (NaN without positives) and that of treating all, each
    [rows, thresholds], from how many negative and positive exams pass no, one ... all thresholds.
    """
    n = sums.sum(axis=1, keepdims=True)
    negatives, positives = np.split(sums, 2, axis=1)
    false, true = (c[:, ::-1].cumsum(axis=1)[:, ::-1] for c in (negatives, positives))
    prevalence = true[:, :1] / n
    odds = cuts / (1 - cuts)
    net = true[:, 1:] / n - false[:, 1:] / n * odds
    prevalence_or_nan = np.where(prevalence > 0, prevalence, np.nan)
    return net, net / prevalence_or_nan, prevalence - (1 - prevalence) * odds
