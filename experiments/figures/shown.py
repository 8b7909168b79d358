"""A report's tables as people read them, every cell a text."""

from collections.abc import Sequence

import pandas as pd

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.summary import p_text
from experiments.figures.study_text import estimate, interval
from lightning_modules.tasks.decision import METHODS

_THRESHOLD_MEASURES = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "PPV": "ppv",
    "NPV": "npv",
    "accuracy": "accuracy",
    "F1": "f1",
    "LR+": "lr_positive",
    "LR-": "lr_negative",
}
_CALIBRATION = {
    "slope": "slope",
    "intercept": "intercept",
    "observed / expected": "observed_expected",
}
_RECALIBRATED = dict(zip(METHODS, ("as predicted", "Platt", "isotonic"), strict=True))
_GAPS = {"auroc": "AUROC", "observed_expected": "observed / expected"}


def heterogeneity(pooled: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "model": row["model"],
            "institutions": row["institutions"],
            "left out": row["left_out"],
            "mean AUROC": estimate(row, "auroc"),
            "prediction interval": _range(row["predicted_low"], row["predicted_high"]),
            "I squared": _number(100 * row["i_squared"], 0, " %"),
            "tau squared (logit)": _number(row["tau_squared"], 3),
            "Cochran's Q": "" if pd.isna(row["q"]) else f"{row['q']:.1f}, {p_text(row['q_p'])}",
        }
        for _, row in pooled.iterrows()
    ]
    return pd.DataFrame(rows)


def macro_measures(table: pd.DataFrame) -> pd.DataFrame:
    measures = {
        "macro average precision": "macro_average_precision",
        "micro average precision": "micro_average_precision",
        "Fmax": "fmax",
    }
    rows = [
        {
            "institution": row["institution"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            "labels": row["labels"],
            **{heading: estimate(row, name) for heading, name in measures.items()},
            "at threshold": _number(row["fmax_threshold"], 2),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def labels(table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """A row a label of the `summarise` tables of one test set, a column a model."""
    rows = []
    for label, of_label in table.groupby("label", sort=False):
        largest = of_label.sort_values("n").iloc[-1]
        counts = f"{largest['positives']:,} / {largest['n']:,}"
        share = f"{100 * largest['positives'] / largest['n']:.1f} %" if largest["n"] else ""
        cells = {
            str(row["model"]): estimate(row, "auroc") if row["n"] else "no exam there"
            for _, row in of_label.iterrows()
        }
        rows.append(
            {"label": label, "positive / exams": counts, "prevalence": share}
            | {model: cells.get(model, "") for model in models}
        )
    return pd.DataFrame(rows)


def ranking(table: pd.DataFrame, lowest: float) -> pd.DataFrame:
    """`lowest`: the specificity, and the sensitivity, that partial AUROCs are from."""
    measures = {"average precision": "average_precision"} | {
        f"partial AUROC, {side} >= {lowest:.2f}": f"partial_auroc_{side}"
        for side in ("specificity", "sensitivity")
    }
    rows = [
        {
            "institution": row["institution"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            "prevalence": f"{100 * row['positives'] / row['n']:.1f} %",
            **{heading: estimate(row, name) for heading, name in measures.items()},
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def threshold_table(operating_points: pd.DataFrame) -> pd.DataFrame:
    """A row a measure, a column a model and operating point, at one institution."""
    lines = operating(operating_points).drop(columns="institution")
    names = lines.pop("model") + ", " + lines.pop("chosen for")
    return lines.T.set_axis(names, axis=1).rename_axis("measure", axis=0).reset_index()


def operating(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for _, row in table.iterrows():
        known = pd.notna(row["tp"])
        by_fold = known and pd.isna(row["threshold"])
        rows.append(
            {
                "institution": row["institution"],
                "model": row["model"],
                "chosen for": row["operating_point"],
                "threshold": "by fold" if by_fold else _number(row["threshold"], 3),
                "TP / FN": f"{row['tp']:,} / {row['fn']:,}" if known else "",
                "TN / FP": f"{row['tn']:,} / {row['fp']:,}" if known else "",
            }
            | {heading: estimate(row, name, 2) for heading, name in _THRESHOLD_MEASURES.items()}
        )
    return pd.DataFrame(rows)


def calibration(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "institution": row["institution"],
            "model": row["model"],
            "probabilities": _RECALIBRATED[row["recalibration"]],
            "exams": f"{row['n']:,}",
            **{heading: estimate(row, name, 2) for heading, name in _CALIBRATION.items()},
            "expected calibration error": estimate(row, "ece"),
            "Brier score": estimate(row, "brier"),
            "scaled Brier": estimate(row, "scaled_brier", 2),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def subgroups(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "variable": row["variable"],
            "subgroup": row["group"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            "positive": f"{row['positives']:,}",
            "AUROC": estimate(row, "auroc"),
            **{heading: estimate(row, name, 2) for heading, name in _CALIBRATION.items()},
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def gaps(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "model": row["model"],
            "variable": row["variable"],
            "measure": _GAPS[row["statistic"]],
            "between": "" if pd.isna(row["gap"]) else f"{row['group_a']} vs {row['group_b']}",
            "gap": interval(row["gap"], row["gap_low"], row["gap_high"]),
            "p": p_text(row["q_p"]),
        }
        for _, row in table[table["statistic"].isin(_GAPS)].iterrows()
    ]
    return pd.DataFrame(rows)


def _range(low: float, high: float) -> str:
    return NOT_ESTIMABLE if pd.isna(low) else f"{low:.3f}-{high:.3f}"


def _number(value: float, digits: int, unit: str = "") -> str:
    return NOT_ESTIMABLE if pd.isna(value) else f"{value:.{digits}f}{unit}"
