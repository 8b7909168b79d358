"""How institutions differ: a random-effects meta-analysis of a statistic of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import chi2, norm, t

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.predictions import EXTERNAL

Scale = tuple[Callable[[Any], Any], Callable[[Any], Any]]  # there and back

METHOD = "Paule-Mandel, Hartung-Knapp"
COLUMNS = (
    "model", "institutions", "left_out", "auroc", "auroc_low", "auroc_high", "predicted_low",
    "predicted_high", "tau_squared", "i_squared", "q", "q_p", "method",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pooled:
    """A random-effects estimate over `k` studies; NaN where k is too small."""

    estimate: float
    error: float
    low: float
    high: float
    predicted_low: float
    predicted_high: float
    tau_squared: float
    i_squared: float
    q: float
    q_p: float
    k: int


def pool(effects: ArrayLike, errors: ArrayLike, *, confidence: float) -> Pooled:
    """Random-effects meta-analysis of `effects` [k] with standard errors `errors` [k].

    - tau_squared, the variance between studies, by Paule & Mandel (J Res Natl Bur Stand
      1982;87:377), which Veroniki et al. (Res Synth Methods 2016;7:55) recommend.
    - The estimate's interval by Hartung & Knapp (Stat Med 2001;20:3875) and Sidik & Jonkman (Stat
      Med 2002;21:3153), from t with k - 1 degrees of freedom; never narrower for their factor than
      without it (Rover et al., BMC Med Res Methodol 2015;15:99). Two studies or more.
    - The prediction interval for a new study by Higgins et al. (J R Stat Soc A 2009;172:137), from
      t with k - 2 degrees of freedom. Three studies or more.
    - q is Cochran's Q, q_p its p-value from chi-squared with k - 1 degrees of freedom, and
      i_squared = max(0, (q - (k - 1)) / q) (Higgins & Thompson, Stat Med 2002;21:1539), a share.

    Of a single study everything but its estimate and error is NaN. ValueError where an effect is
    not finite or an error not positive.
    """
    y, se = np.asarray(effects, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if y.ndim != 1 or y.shape != se.shape or y.size == 0:
        raise ValueError(
            f"effects {y.shape} and errors {se.shape} must be [k], alike and not empty"
        )
    if not (np.isfinite(y).all() and np.isfinite(se).all() and (se > 0).all()):
        raise ValueError("effects must be finite, and errors positive")
    k = y.size
    if k == 1:
        nan = float("nan")
        return Pooled(float(y[0]), float(se[0]), nan, nan, nan, nan, nan, nan, nan, nan, 1)

    def spread(tau_squared: float) -> float:
        weight = 1 / (se**2 + tau_squared)
        return float((weight * (y - np.average(y, weights=weight)) ** 2).sum())

    q = spread(0.0)
    tau_squared = 0.0
    if q > k - 1:
        # at this variance the weights are all below (k - 1) / sum of squares
        end = float(((y - y.mean()) ** 2).sum()) / (k - 1)
        tau_squared = float(brentq(lambda tau: spread(tau) - (k - 1), 0.0, end, xtol=1e-14))
    weight = 1 / (se**2 + tau_squared)
    estimate = float(np.average(y, weights=weight))
    factor = max(1.0, spread(tau_squared) / (k - 1))
    error = float(np.sqrt(factor / weight.sum()))
    tail = (1 + confidence) / 2
    half = float(t.ppf(tail, k - 1)) * error
    beyond = np.nan
    if k >= 3:
        beyond = float(t.ppf(tail, k - 2) * np.sqrt(tau_squared + error**2))
    return Pooled(
        estimate,
        error,
        estimate - half,
        estimate + half,
        estimate - beyond,
        estimate + beyond,
        tau_squared,
        max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0,
        q,
        float(chi2.sf(q, k - 1)),
        k,
    )


def pooled_aurocs(summary: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """A row a model with the columns COLUMNS: its external institutions' AUROCs, pooled.

    `summary` is that of `summarise` at the same `confidence`. AUROCs are pooled by `pool` on the
    logit scale, the standard error being that of the interval (`logit_errors`), and put back on
    their own scale; tau_squared stays on the logit scale. The prediction interval is what a new
    hospital's true AUROC is expected in.

    Institutions whose AUROC is not estimable, or 0 or 1 (its logit is infinite), are left out and
    named in `left_out`. With fewer than two left nothing is estimable (NaN).
    """
    z = pd.Series(norm.ppf((1 + confidence) / 2), summary.index)
    return pooled_institutions(summary, "auroc", (logit, expit), z, confidence=confidence)


def pooled_institutions(
    summary: pd.DataFrame,
    statistic: str,
    scale: Scale,
    quantiles: pd.Series,
    *,
    confidence: float,
) -> pd.DataFrame:
    """`pooled_aurocs` of any `statistic` of a summary, whose columns are named by it.

    `scale` is what is pooled on. An interval is there
    2 standard errors times its row's `quantiles` wide. What has no finite effect and positive error
    is left out.
    """
    there, back = scale
    rows = []
    for model, of_model in summary.groupby("model", sort=False):
        external = of_model[of_model["role"] == EXTERNAL]
        names = [statistic, f"{statistic}_low", f"{statistic}_high"]
        with np.errstate(divide="ignore", invalid="ignore"):
            effects, low, high = (there(external[name].to_numpy(np.float64)) for name in names)
            errors = (high - low) / (2 * quantiles[external.index].to_numpy())
        usable = np.isfinite(effects) & np.isfinite(errors) & (errors > 0)
        row: dict[str, Any] = {
            "model": model,
            "institutions": int(usable.sum()),
            "left_out": ", ".join(external.loc[~usable, "institution"]),
            "method": NOT_ESTIMABLE,
        }
        if usable.sum() >= 2:
            pooled = pool(effects[usable], errors[usable], confidence=confidence)
            row |= {
                statistic: back(pooled.estimate),
                f"{statistic}_low": back(pooled.low),
                f"{statistic}_high": back(pooled.high),
                "predicted_low": back(pooled.predicted_low),
                "predicted_high": back(pooled.predicted_high),
                "tau_squared": pooled.tau_squared,
                "i_squared": pooled.i_squared,
                "q": pooled.q,
                "q_p": pooled.q_p,
                "method": METHOD,
            }
        rows.append(row)
    columns = [name.replace("auroc", statistic) for name in COLUMNS]
    return pd.DataFrame(rows, columns=columns)


def logit_errors(low: ArrayLike, high: ArrayLike, *, confidence: float) -> Any:
    """Standard errors on the logit scale, of which an interval of `auroc_interval` is 2 z wide."""
    z = norm.ppf((1 + confidence) / 2)
    return (logit(np.asarray(high)) - logit(np.asarray(low))) / (2 * z)
