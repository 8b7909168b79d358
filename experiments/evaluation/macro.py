"""The macro average over labels: its AUROC, comparisons of models, and further measures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from experiments.evaluation.auroc import (
    ADDED,
    CLUSTERED,
    DELONG,
    NEWCOMBE,
    NOT_ESTIMABLE,
    newcombe_interval,
    patients_by_class,
    placements,
)
from experiments.evaluation.bootstrap import percentiles, resampled_patients
from experiments.evaluation.comparison import (
    COLUMNS,
    FIGURES,
    LEAST,
    ROUNDING,
    by_exam,
    corrected,
    same_order,
)
from experiments.evaluation.heterogeneity import pooled_aurocs
from experiments.evaluation.predictions import (
    ALL_EXTERNAL,
    EXTERNAL,
    MACRO,
    POOLED,
    ROLES,
)
from experiments.evaluation.proportion import wilson_interval
from experiments.evaluation.ranking import RankedExams

BY_PATIENTS = "by patients"
PAIRED = "paired by patients"
SUMMARY_COLUMNS = (
    "model", "label", "institution", "role", "n", "positives", "auroc", "auroc_low", "auroc_high",
    "method", "labels", "left_out",
)  # fmt: skip
MEASURES = ("macro_average_precision", "micro_average_precision", "fmax")
MEASURE_COLUMNS = (
    "model", "label", "institution", "role", "n", "positives",
    *(name + end for name in MEASURES for end in ("", "_low", "_high")), "fmax_threshold",
    "method", "labels", "left_out",
)  # fmt: skip
SEPARATOR = "; "  # of labels, whose names may have commas
FMAX_THRESHOLDS = np.arange(1, 101) / 100

_Set = tuple[str, str]  # institution and role
_COLUMNS = ("target", "exam", "patient", "stratum", "split", "institution")  # of a _Label


@dataclass(frozen=True, eq=False)
class _Label:
    """One label's exams: targets [n], and as numbers of the whole table exams [n], patients [n] and
    institutions [n]; splits [n], and each model's probabilities [n], NaN where it has none.
    """

    name: str
    target: NDArray[np.bool_]
    exam: NDArray[np.int64]
    patient: NDArray[np.int64]
    stratum: NDArray[np.int64]
    split: NDArray[Any]
    institution: NDArray[Any]
    scores: dict[str, NDArray[np.float64]]

    def having(self, test_set: _Set, models: Sequence[str]) -> NDArray[np.bool_]:
        """Which exams [n] are of a test set, and all of `models` have."""
        institution, role = test_set
        if role == POOLED:
            there = self.split == EXTERNAL
        else:
            split = next(split for split, of_split in ROLES.items() if of_split == role)
            there = (self.split == split) & (self.institution == institution)
        for model in models:
            there = there & ~np.isnan(self.scores[model])
        return np.asarray(there)

    def of(self, there: NDArray[np.bool_]) -> "_Label":
        columns = {name: getattr(self, name)[there] for name in _COLUMNS}
        scores = {model: of_model[there] for model, of_model in self.scores.items()}
        return replace(self, **columns, scores=scores)

    @cached_property
    def patients(self) -> tuple[int, int]:
        """With a positive exam, and with a negative one."""
        return patients_by_class(self.target, self.patient)

    def placements(self, model: str) -> NDArray[np.float64]:
        """Of each exam [n]."""
        if model not in self._placements:
            placed = np.empty(self.target.size)
            placed[self.target], placed[~self.target] = placements(self.target, self.scores[model])
            self._placements[model] = placed
        return self._placements[model]

    @cached_property
    def _placements(self) -> dict[str, NDArray[np.float64]]:
        return {}


@dataclass(frozen=True, eq=False)
class _Exams:
    """A test set: its exams of every label."""

    every: Sequence[_Label]

    @cached_property
    def labels(self) -> list[_Label]:
        """Those that are estimable."""
        return [label for label in self.every if min(label.patients) >= 2]

    @cached_property
    def exams(self) -> NDArray[np.int64]:
        return np.unique(np.concatenate([label.exam for label in self.every]))

    @cached_property
    def institutions(self) -> int:
        return np.unique(np.concatenate([label.stratum for label in self.every])).size

    @cached_property
    def person(self) -> NDArray[np.int64]:
        """The patient of each exam and label that is estimable, from 0 on, those of an institution
        in a row."""
        stratum, patient = (
            np.concatenate([getattr(label, name) for label in self.labels])
            for name in ("stratum", "patient")
        )
        pairs = stratum * (int(patient.max()) + 1) + patient
        return np.asarray(np.unique(pairs, return_inverse=True)[1])

    @cached_property
    def stratum_sizes(self) -> NDArray[np.int64]:
        """How many of these patients each institution has."""
        stratum = np.concatenate([label.stratum for label in self.labels])
        first = np.unique(self.person, return_index=True)[1]
        return np.unique(stratum[first], return_counts=True)[1]

    def variance(self, influences: Sequence[NDArray[np.float64]]) -> float:
        """Of the sum of `influences`, an array a label, between patients within institutions."""
        sums = np.bincount(self.person, weights=np.concatenate(influences))
        sizes = self.stratum_sizes
        if sizes.size == 1:  # where they add up to 0
            return float((sums**2).sum())
        stratum = np.repeat(np.arange(sizes.size), sizes)
        means = np.bincount(stratum, weights=sums) / sizes
        squares = np.bincount(stratum, weights=(sums - means[stratum]) ** 2)
        return float((squares * sizes / np.maximum(sizes - 1, 1)).sum())


def macro_summary(predictions: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """A row a model and test set, as `summarise` has them, with SUMMARY_COLUMNS: the mean AUROC.

    `predictions` is a checked table. Each label counts once, if its AUROC is estimable there
    (`is_estimable`); `labels` says how many these are, `left_out` names the others, parted by
    SEPARATOR. Labels may have different exams. `n` counts exams with any label known, `positives`
    those with any positive.

    The mean is linear in what each exam adds to it: its placement's distance from the mean of its
    class, over the number of exams of that class, over the number of labels. These sums of a
    patient, over exams and labels, are independent between patients, and the variance is that of
    their sum: Obuchowski's of one label's clustered exams (Biometrics 1997;53:567), which is
    DeLong's (Biometrics 1988;44:837) where each patient has one exam. It is taken within
    institutions where these are put together.

    The interval is Wilson's (J Am Stat Assoc 1927;22:209) of a proportion from as many exams as
    make its variance this one, the proportion's own being the mean of A(1 - A) over the labels'
    AUROCs A. As `auroc_interval` does, 0.4 patients with a placement of 1/2 are added to each class
    of each label: of one label and independent exams the two are the same. Without any variance,
    `newcombe_interval` of the label with the fewest patients of a class stands in.

    Coverage of the 95 % interval in simulations (2, 6 and 20 labels that a patient's exams share in
    part, 9 to 90 positive exams a label, AUROCs of 0.8 to 0.97; one exam a patient, or two with
    three institutions put together): 95.2 % on average of 54 settings, 92 to 99.6 %, the latter of
    20 rare labels at 0.97. Between equal models `compare_macro` had p below 0.05 in 5.3 %, at most
    9 %.
    """
    labels, models = _labels(predictions), _models(predictions)
    rows = []
    for model in models:
        for test_set in _test_sets(predictions[predictions["model"] == model]):
            there = _Exams([label.of(label.having(test_set, [model])) for label in labels])
            rows.append(_row(model, test_set, there) | _mean_auroc(there, model, confidence))
    numbers = dict.fromkeys(("auroc", "auroc_low", "auroc_high"), "float64")
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype(numbers)


def shared_labels(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of the labels that all models have tested exams of; all, without such a label.

    Averages over different labels must not be compared.
    """
    tested = predictions[predictions["split"].isin(ROLES)]
    models = tested.groupby("label", sort=False)["model"].nunique()
    shared = models.index[models == tested["model"].nunique()]
    return predictions[predictions["label"].isin(shared)] if len(shared) else predictions


def pooled_macro(summary: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """`pooled_aurocs` of a `macro_summary`, over institutions whose averages are over the labels of
    the model's pooled row: between others the labels would differ, not the hospitals. These are
    named in `left_out`.
    """
    alike = summary.assign(auroc=summary["auroc"].where(of_pooled_labels(summary)))
    return pooled_aurocs(alike, confidence=confidence)


def of_pooled_labels(summary: pd.DataFrame) -> pd.Series:
    """Which rows of a `macro_summary` are over the labels of their model's pooled row; all of a
    model without one.
    """
    pooled = summary[summary["role"] == POOLED].set_index("model")["left_out"].to_dict()
    rows = zip(summary["model"], summary["left_out"], strict=True)
    alike = [left_out == pooled.get(model, left_out) for model, left_out in rows]
    return pd.Series(alike, summary.index, dtype=bool)


def left_out_labels(left_out: str) -> list[str]:
    """The names in a cell of the column `left_out`."""
    return left_out.split(SEPARATOR) if left_out else []


def compare_macro(predictions: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """A row a pair of models and test set, with the columns of `compare` and `labels`.

    Models are compared on the exams that both have, label by label, and on the labels that are
    estimable in these; `left_out` counts exams that only one has for some label. The variance of
    the difference is that of `macro_summary`, of the differences of placements; of one label and
    independent exams the test is DeLong's. As in `compare`, what needs more patients is not
    estimable: in all labels' smaller classes together there must be 5 patients, 10 where some have
    several exams. InputError where models disagree about an exam's target or patient.
    """
    labels, models = _labels(predictions), _models(predictions)
    pairs, rows = list(combinations(models, 2)), list[dict[str, Any]]()
    for test_set in _test_sets(predictions):
        known: dict[bytes, _Exams] = {}
        present = {m: [label.having(test_set, [m]) for label in labels] for m in models}
        for pair in pairs:
            of_pair = list(zip(*(present[model] for model in pair), strict=True))
            both = [one & other for one, other in of_pair]
            mask = np.packbits(np.concatenate(both)).tobytes()
            if mask not in known:
                known[mask] = _Exams([of.of(b) for of, b in zip(labels, both, strict=True)])
            exams = known[mask]
            if test_set[1] == POOLED and exams.institutions < 2:
                continue
            if not any((one | other).any() for one, other in of_pair):
                continue
            alone = [
                label.exam[one ^ other] for label, (one, other) in zip(labels, of_pair, strict=True)
            ]
            counts = {"n": exams.exams.size, "left_out": np.unique(np.concatenate(alone)).size}
            rows.append(
                {"label": MACRO, "institution": test_set[0], "role": test_set[1]}
                | {"model_a": pair[0], "model_b": pair[1], **counts}
                | _difference(exams, pair, confidence)
            )
    place = {pair: number for number, pair in enumerate(pairs)}
    rows.sort(key=lambda row: place[row["model_a"], row["model_b"]])
    table = corrected(pd.DataFrame(rows, columns=[*COLUMNS, "labels"]))
    return table.astype(dict.fromkeys((*FIGURES, "p_holm"), "float64"))


def macro_measures(
    predictions: pd.DataFrame, *, confidence: float, resamples: int, seed: int
) -> pd.DataFrame:
    """A row a model and test set, as `macro_summary` has them, with MEASURE_COLUMNS.

    - macro_average_precision: the mean over labels.
    - micro_average_precision: of all pairs of an exam and a label as one set.
    - fmax: the largest F1 over the thresholds 0.01, 0.02 ... 1, of the mean precision over exams
      with a positive call (probability >= threshold) and the mean recall over exams with a positive
      label (Strodthoff et al., IEEE J Biomed Health Inform 2021;25:1519). A threshold that is the
      best on the exams it is applied to flatters a little; `fmax_threshold` is that one.

    All are of the labels that `labels` counts. Intervals are percentiles of the patients' bootstrap
    within institutions, all labels of a patient drawn together, moved so that their mean is the
    value: a patient who is drawn twice makes rare labels look easier to find. They end at
    0 and 1, and hold the value. NaN where no label is estimable.
    """
    labels, models = _labels(predictions), _models(predictions)
    rows = []
    for model in models:
        for test_set in _test_sets(predictions[predictions["model"] == model]):
            there = _Exams([label.of(label.having(test_set, [model])) for label in labels])
            row = _row(model, test_set, there)
            if row["labels"] == 0:
                rows.append(row | {"method": NOT_ESTIMABLE})
                continue
            values, resampled = _measures(there, model, resamples, seed)
            resampled += values - np.nanmean(resampled, axis=0)
            lows, highs = percentiles(resampled, confidence=confidence)
            # a value at the end of the scale is moved there, and its resamples beyond
            lows = np.clip(lows, 0, values)
            highs = np.clip(highs, values, 1)
            for name, value, low, high in zip(MEASURES, values, lows, highs, strict=True):
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            best = _f_scores(_f_sums(there, model).sum(axis=0, keepdims=True)).argmax()
            row["fmax_threshold"] = float(FMAX_THRESHOLDS[best])
            rows.append(row | {"method": CLUSTERED})
    return pd.DataFrame(rows, columns=list(MEASURE_COLUMNS))


def _models(predictions: pd.DataFrame) -> list[str]:
    return [str(model) for model in predictions["model"].unique()]


def _labels(predictions: pd.DataFrame) -> list[_Label]:
    """Every label's exams; exams, patients and institutions have one number in all of them."""
    institution = pd.factorize(predictions["institution"], sort=True)[0].astype(np.int64)
    numbers = {"__stratum": institution}
    for name, column in (("__exam", "exam_id"), ("__patient", "patient_id")):
        of_column = pd.factorize(predictions[column], sort=True)[0].astype(np.int64)
        pairs = institution * (int(of_column.max(initial=0)) + 1) + of_column
        numbers[name] = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    table, labels = predictions.assign(**numbers), []
    models = _models(predictions)
    for label, of_label in table.groupby("label", sort=False):
        exams, scores = by_exam(of_label, [m for m in models if (of_label["model"] == m).any()])
        absent = np.full(len(exams), np.nan)
        labels.append(
            _Label(
                str(label),
                exams["target"].to_numpy().astype(bool),
                exams["__exam"].to_numpy(),
                exams["__patient"].to_numpy(),
                exams["__stratum"].to_numpy(),
                exams["split"].to_numpy(),
                exams["institution"].to_numpy(),
                {m: scores[m].to_numpy() if m in scores else absent for m in models},
            )
        )
    return labels


def _test_sets(predictions: pd.DataFrame) -> Iterator[_Set]:
    """In the order of `exam_sets`."""
    for split, role in ROLES.items():
        institutions = predictions.loc[predictions["split"] == split, "institution"].unique()
        yield from ((str(name), role) for name in institutions)
        if role == EXTERNAL and len(institutions) > 1:
            yield ALL_EXTERNAL, POOLED


def _row(model: str, test_set: _Set, there: _Exams) -> dict[str, Any]:
    positive = np.concatenate([label.exam[label.target] for label in there.every])
    known = [label.name for label in there.labels]
    return {
        "model": model,
        "label": MACRO,
        "institution": test_set[0],
        "role": test_set[1],
        "n": there.exams.size,
        "positives": np.unique(positive).size,
        "labels": len(known),
        "left_out": SEPARATOR.join(of.name for of in there.every if of.name not in known),
    }


def _mean_auroc(there: _Exams, model: str, confidence: float) -> dict[str, Any]:
    """The mean with its interval, and the interval's method."""
    labels = there.labels
    if not labels:
        return {"auroc": None, "auroc_low": None, "auroc_high": None, "method": NOT_ESTIMABLE}
    values, spreads, added, influences = [], [], 0.0, []
    for label in labels:
        placed, smaller = label.placements(model), min(label.patients)
        values.append(placed[label.target].mean())
        shrunk = (smaller * values[-1] + ADDED / 2) / (smaller + ADDED)
        spreads.append(shrunk * (1 - shrunk))
        influence, of_added = _influence(label, placed, ADDED)
        influences.append(influence / len(labels))
        added += of_added / len(labels) ** 2
    value, smaller = float(np.mean(values)), sum(min(label.patients) for label in labels)
    centre = (smaller * value + ADDED / 2) / (smaller + ADDED)
    variance = there.variance(influences) + added
    if variance > 0:
        size = float(np.mean(spreads)) / variance
        bounds = map(float, wilson_interval(centre * size, size, confidence=confidence))
        (low, high), method = bounds, BY_PATIENTS
    else:
        fewest = min((label.patients for label in labels), key=min)
        (low, high), method = newcombe_interval(value, *fewest, confidence=confidence), NEWCOMBE
    low, high = min(low, value), max(high, value)
    return {"auroc": value, "auroc_low": low, "auroc_high": high, "method": method}


def _difference(there: _Exams, pair: Sequence[str], confidence: float) -> dict[str, Any]:
    labels = there.labels
    if not labels:
        nothing: dict[str, Any] = dict.fromkeys(FIGURES, np.nan)
        return nothing | {"method": NOT_ESTIMABLE, "labels": 0}
    one, other = ([label.placements(model) for label in labels] for model in pair)
    auroc_a, auroc_b = (
        float(np.mean([of[label.target].mean() for label, of in zip(labels, placed, strict=True)]))
        for placed in (one, other)
    )
    influences = [
        _influence(label, a - b, 0)[0] / len(labels)
        for label, a, b in zip(labels, one, other, strict=True)
    ]
    error = float(np.sqrt(there.variance(influences)))
    test: dict[str, Any] = {
        "auroc_a": auroc_a,
        "auroc_b": auroc_b,
        "difference": auroc_a - auroc_b,
        "labels": len(labels),
    }
    if error > ROUNDING and _enough(labels):
        z = test["difference"] / error
        p = float(2 * norm.sf(abs(z)))
    elif error <= ROUNDING and all(
        same_order(*(label.scores[model] for model in pair)) for label in labels
    ):
        z, p = 0.0, 1.0
    else:
        return test | dict.fromkeys(FIGURES[3:], np.nan) | {"method": NOT_ESTIMABLE}
    half = float(norm.ppf((1 + confidence) / 2)) * error
    low, high = test["difference"] - half, test["difference"] + half
    figures = {"difference_low": low, "difference_high": high, "z": z, "p": p}
    return test | figures | {"method": PAIRED}


def _enough(labels: Sequence[_Label]) -> bool:
    """Whether a test is made: by the patients of all labels' smaller classes together."""
    few, clustered = [], False
    for label in labels:
        classes = [np.unique(label.patient[of]) for of in (label.target, ~label.target)]
        few.append(min(classes, key=np.size))
        clustered |= np.unique(label.patient).size < label.patient.size
    return np.unique(np.concatenate(few)).size >= LEAST[CLUSTERED if clustered else DELONG]


def _influence(
    label: _Label, placed: NDArray[np.float64], added: float
) -> tuple[NDArray[np.float64], float]:
    """What each exam [n] adds to the label's mean placement, and the variance of the `added`
    patients of each class, who have a placement of 1/2.

    Scaled so that the sum of the squares is the variance with patients - 1 in the denominator.
    """
    influence, variance = np.empty(placed.size), 0.0
    for of_class, patients in zip((label.target, ~label.target), label.patients, strict=True):
        values = placed[of_class]
        each = values.size / patients
        size = values.size + added * each
        mean = (values.sum() + added * each / 2) / size
        scale = np.sqrt((patients + added) / (patients + added - 1)) / size
        influence[of_class] = (values - mean) * scale
        variance += added * float(each * scale * (0.5 - mean)) ** 2
    return influence, variance


def _measures(
    there: _Exams, model: str, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """MEASURES [3], and resampled [resamples, 3], of the labels that are estimable."""
    labels, person, sizes = there.labels, there.person, there.stratum_sizes
    target = np.concatenate([label.target for label in labels])
    score = np.concatenate([label.scores[model] for label in labels])
    ends = np.cumsum([label.target.size for label in labels])[:-1]
    micro = RankedExams.of(target, score, person)
    macro = [
        RankedExams.of(label.target, label.scores[model], of_label)
        for label, of_label in zip(labels, np.split(person, ends), strict=True)
    ]
    sums = _f_sums(there, model)

    def of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        every = [ranked.curves(counts).average_precision() for ranked in macro]
        f = _f_scores(counts.astype(np.float64) @ sums).max(axis=1)
        return np.stack([_mean(every), micro.curves(counts).average_precision(), f], axis=1)

    once = np.ones((1, int(sizes.sum())), dtype=np.int64)
    drawn = resampled_patients(target.size, sizes, resamples, seed)
    return of(once)[0], np.concatenate([of(counts) for counts in drawn])


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of the labels that a resample has a positive exam of; NaN without any."""
    table = np.stack(values)
    known = ~np.isnan(table)
    total = np.where(known, table, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    return np.asarray(total / np.where(count > 0, count, np.nan))


def _f_sums(there: _Exams, model: str) -> NDArray[np.float64]:
    """Sums over each patient's exams [patients, 3 x thresholds + 1]: of precisions, of exams with a
    positive call, and of recalls, at each of FMAX_THRESHOLDS; last, exams with a positive label.
    """
    labels, steps = there.labels, FMAX_THRESHOLDS.size
    number = np.unique(np.concatenate([label.exam for label in labels]), return_inverse=True)[1]
    target = np.concatenate([label.target for label in labels])
    score = np.concatenate([label.scores[model] for label in labels])
    exams = int(number.max()) + 1
    passed = np.searchsorted(FMAX_THRESHOLDS, score, side="right")
    cell = number * (steps + 1) + passed

    def at_least(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        counts = np.bincount(cell[chosen], minlength=exams * (steps + 1))
        falling = counts.reshape(exams, steps + 1)[:, ::-1].cumsum(axis=1)
        return np.asarray(falling[:, ::-1][:, 1:], dtype=np.float64)

    called, hits = at_least(np.ones(target.size, dtype=bool)), at_least(target)
    positives = np.bincount(number, weights=target, minlength=exams)[:, None]
    columns = [hits / np.maximum(called, 1), called > 0, hits / np.maximum(positives, 1)]
    table = np.concatenate([*columns, positives > 0], axis=1).astype(np.float64)
    of_exam = np.empty(exams, dtype=np.int64)
    of_exam[number] = there.person
    sums = np.zeros((int(there.stratum_sizes.sum()), table.shape[1]))
    np.add.at(sums, of_exam, table)
    return sums


def _f_scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 [rows, thresholds] of sums over exams, as `_f_sums` has them; 0 without a hit."""
    precisions, called, recalls = np.split(sums[:, :-1], 3, axis=1)
    precision = precisions / np.maximum(called, 1)
    recall = recalls / np.maximum(sums[:, -1:], 1)
    both = precision + recall
    zeros = np.zeros(both.shape)
    score = np.divide(2 * precision * recall, both, out=zeros, where=both > 0)
    return np.asarray(score)
