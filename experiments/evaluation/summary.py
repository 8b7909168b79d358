"""AUROC of every model at every institution, and its tables for people and for machines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.evaluation.auroc import NOT_ESTIMABLE, clustered_auroc
from experiments.evaluation.predictions import DEVELOPMENT, EXTERNAL, POOLED, label_of
from experiments.evaluation.sets import ExamSet, exam_sets

JSON_KEYS = (
    "model", "label", "institution", "role", "n", "positives", "auroc", "auroc_low", "auroc_high",
)  # fmt: skip


def summarise(
    predictions: pd.DataFrame, *, confidence: float, resamples: int, seed: int
) -> pd.DataFrame:
    """A row a model and institution: model, label, institution, role, n, positives, auroc,
    auroc_low, auroc_high (NaN where not estimable), method.

    role is "development" (the internal test), "external", or "pooled" for the row `all-external`,
    which each model with at least two external institutions has: all their exams as one test set,
    patients resampled within institutions. Validation exams are not summarised. Models and
    institutions keep their order in `predictions` (a checked table of one label), development ones
    first.
    """
    rows = []
    label = label_of(predictions)
    for exams in exam_sets(predictions):
        figures = auroc_of(exams, confidence=confidence, resamples=resamples, seed=seed)
        rows.append(exams.row | {"label": label} | figures)
    summary = pd.DataFrame(rows, columns=[*JSON_KEYS, "method"])
    aurocs = ["auroc", "auroc_low", "auroc_high"]
    summary[aurocs] = summary[aurocs].astype("float64")
    return summary


def auroc_of(exams: ExamSet, *, confidence: float, resamples: int, seed: int) -> dict[str, Any]:
    """The AUROC of a set with its interval (None: not estimable), and the interval's method."""
    estimate = clustered_auroc(
        exams.target,
        exams.probability,
        exams.cluster,
        exams.stratum_sizes,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    figures = {"auroc": estimate.value, "auroc_low": estimate.low, "auroc_high": estimate.high}
    return {**figures, "method": estimate.method}


def summary_json(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `summarise` as plain values under JSON_KEYS; None where not estimable."""
    return plain_rows(summary, JSON_KEYS)


def plain_rows(table: pd.DataFrame, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A table's rows as plain values under `keys`, NaN as None."""
    return [
        {key: None if pd.isna(row[key]) else row[key] for key in keys}
        for row in table.to_dict(orient="records")
    ]


def estimate_text(row: Mapping[Any, Any] | pd.Series) -> str:
    """A summary row's AUROC as "0.912 (0.880-0.944)", or "not estimable"."""
    if pd.isna(row["auroc"]):
        return NOT_ESTIMABLE
    return f"{row['auroc']:.3f} ({row['auroc_low']:.3f}-{row['auroc_high']:.3f})"


def p_text(p: float) -> str:
    """A p-value as "p = 0.023", "p < 0.001", or "not estimable"."""
    if pd.isna(p):
        return NOT_ESTIMABLE
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def results_table(
    summary: pd.DataFrame,
    ceilings: Mapping[str, Mapping[str, float]] | None,
    text: Callable[[Mapping[Any, Any]], str] = estimate_text,
    digits: int = 3,
) -> pd.DataFrame:
    """A row an institution for people: institution, role, exams, prevalence (where the summary
    counts positive ones), a column a model, which has its rows' `text`.

    `ceilings` (model -> institution -> best possible value, known in a simulation) become the last
    columns: "ceiling" where all models share one, else one for those that share it, by their names.
    A model that was tested on fewer exams than another says so in its cell. Of the macro average
    "any label" stands for the prevalence: exams with any positive label.
    """
    share = "any label" if "labels" in summary else "prevalence"
    models = [str(model) for model in summary["model"].unique()]
    columns = _ceiling_columns(models, ceilings or {})
    rows = []
    for (institution, role), group in summary.groupby(["institution", "role"], sort=False):
        cells = group.to_dict(orient="records")
        largest = max(cells, key=lambda cell: cell["n"])
        row: dict[str, Any] = {
            "institution": institution,
            "role": role,
            "exams": int(largest["n"]),
        }
        if "positives" in summary:
            row[share] = f"{100 * largest['positives'] / largest['n']:.1f} %"
        row |= dict.fromkeys(models, "")
        for cell in cells:
            fewer = "" if cell["n"] == largest["n"] else f", {cell['n']} exams"
            row[cell["model"]] = text(cell) + fewer
        for title, ceiling in columns.items():
            best = ceiling.get(str(institution))
            row[title] = "" if best is None else f"{best:z.{digits}f}"
        rows.append(row)
    order = [DEVELOPMENT, EXTERNAL, POOLED]
    rows.sort(key=lambda row: order.index(row["role"]))
    return pd.DataFrame(rows)


def _ceiling_columns(
    models: Sequence[str], ceilings: Mapping[str, Mapping[str, float]]
) -> dict[str, Mapping[str, float]]:
    """Title -> institution -> value."""
    sharing: dict[frozenset[tuple[str, float]], list[str]] = {}
    for model in models:
        if model in ceilings:
            sharing.setdefault(frozenset(ceilings[model].items()), []).append(model)
    return {
        "ceiling" if group == models else f"ceiling ({', '.join(group)})": ceilings[group[0]]
        for group in sharing.values()
    }


def markdown_table(table: pd.DataFrame) -> str:
    """Any table as a Markdown one, for a run's description."""
    header = [str(column) for column in table.columns]
    lines = [header, ["---"] * len(header)]
    lines += [[str(cell) for cell in row] for row in table.itertuples(index=False)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
