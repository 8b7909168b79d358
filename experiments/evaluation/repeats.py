"""Studies that were run again and again: AUROCs over seeds, and what one setting or model has over
another where both saw the same seed.

All seeds are tested at the same institutions. An interval over seeds says how a training's chance
(its draw of exams and labels, its initial weights, its batches) moves the result, and nothing about
other hospitals or patients.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t

from experiments.evaluation.heterogeneity import pooled_aurocs
from experiments.evaluation.predictions import ALL_EXTERNAL, EXTERNAL

SEED = "seed"
POOLED, RANDOM_EFFECTS = "pooled AUROC", "random-effects AUROC"
TOLD = ("label", "measure", "model")


def external_aurocs(summary: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """A study's external results: a row a label, measure and model, with its auroc.

    `summary` is that of `summarise`, of one label or several. The pooled AUROC is of all external
    exams together, or of the only external institution; the random-effects one is the mean over
    institutions (`pooled_aurocs`), where there are two or more. What is not estimable has no row.
    """
    rows = []
    for label, of_label in summary.groupby("label", sort=False):
        external = of_label[of_label["role"] == EXTERNAL]
        together = of_label[of_label["institution"] == ALL_EXTERNAL]
        if together.empty and external["institution"].nunique() == 1:
            together = external
        found = {POOLED: together}
        if external["institution"].nunique() > 1:
            found[RANDOM_EFFECTS] = pooled_aurocs(of_label, confidence=confidence)
        for measure, table in found.items():
            rows += [
                {"label": label, "measure": measure, "model": row["model"], "auroc": row["auroc"]}
                for row in table.to_dict(orient="records")
            ]
    table = pd.DataFrame(rows, columns=[*TOLD, "auroc"])
    return table.dropna(subset="auroc").reset_index(drop=True)


def over_seeds(results: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """A row a setting, label, measure and model: seeds, mean, sd (NaN of a single seed), lowest and
    highest.

    `results` has the columns `settings`, seed and those of `external_aurocs`.
    """
    groups = results.groupby([*settings, *TOLD], sort=False)["auroc"]
    table = groups.agg(seeds="count", mean="mean", sd="std", lowest="min", highest="max")
    return table.reset_index()


def differences(
    results: pd.DataFrame, settings: Sequence[str], *, confidence: float
) -> pd.DataFrame:
    """What one arm has over another, paired over the seeds that both have.

    Compared are all models of one setting with each other, and each model at every value of a
    setting with itself at the first value, all other settings alike. A row a label, measure and
    pair: `of` and `over` (what the two differ in), `among` (what they share), seeds, difference
    (mean, first minus second), its interval from t with seeds - 1 degrees of freedom (NaN of a
    single seed), and `wins`, in how many seeds the first is higher. Pairs that never differ (a
    model that does not depend on the setting) have no row.
    """
    rows = []
    for (label, measure), table in results.groupby(["label", "measure"], sort=False):
        arms = {
            arm if isinstance(arm, tuple) else (arm,): of_arm.set_index(SEED)["auroc"]
            for arm, of_arm in table.groupby([*settings, "model"], sort=False)
        }
        for first, second, differing in _pairs(list(arms), len(settings)):
            paired = (arms[first] - arms[second]).dropna()
            if paired.empty or (paired == 0).all():
                continue
            mean, half = float(paired.mean()), np.nan
            if len(paired) > 1:
                error = float(paired.std()) / np.sqrt(len(paired))
                half = float(t.ppf((1 + confidence) / 2, len(paired) - 1)) * error
            names = [*settings, "model"]
            shared = [n for n in range(len(names)) if n != differing]
            rows.append(
                {
                    "label": label,
                    "measure": measure,
                    "among": ", ".join(f"{names[n]} {first[n]}" for n in shared),
                    "differing": names[differing],
                    "of": first[differing],
                    "over": second[differing],
                    "seeds": len(paired),
                    "difference": mean,
                    "low": mean - half,
                    "high": mean + half,
                    "wins": int((paired > 0).sum()),
                }
            )
    columns = ["label", "measure", "among", "differing", "of", "over", "seeds", "difference"]
    return pd.DataFrame(rows, columns=[*columns, "low", "high", "wins"])


Arm = tuple[object, ...]


def _pairs(arms: Sequence[Arm], model: int) -> Iterator[tuple[Arm, Arm, int]]:
    """Two arms that differ in one place, and the place; of a setting, one of them the first."""
    firsts: Mapping[int, object] = {n: arm[n] for arm in arms[:1] for n in range(len(arm))}
    for earlier, later in combinations(arms, 2):
        places = [n for n in range(model + 1) if earlier[n] != later[n]]
        if places == [model]:
            yield earlier, later, model
        elif len(places) == 1 and earlier[places[0]] == firsts[places[0]]:
            yield later, earlier, places[0]
