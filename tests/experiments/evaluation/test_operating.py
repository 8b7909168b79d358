"""Operating points against scikit-learn, published worked examples and the bootstrap's meaning."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from statsmodels.stats.proportion import proportion_confint

from datamodules.errors import InputError
from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.bootstrap import resampled_patients
from experiments.evaluation.operating import (
    CLOSED_FORM,
    COLUMNS,
    GIVEN,
    RATIOS,
    STATISTICS,
    YOUDEN,
    operating_points,
    sensitivity_threshold,
)
from experiments.evaluation.proportion import wilson_interval
from lightning_modules.tasks.decision import youden_threshold

SETTINGS = {"confidence": 0.95, "resamples": 500, "seed": 0}


def exams(target, probability, split="external", institution="a", patient=None, model="mae"):
    n = len(target)
    return pd.DataFrame(
        {
            "model": model, "institution": institution, "split": split,
            "patient_id": np.arange(n) if patient is None else patient,
            "exam_id": [f"{split}{number}" for number in range(n)],
            "target": target, "logit": 0.0, "probability": probability,
        }
    )  # fmt: skip


def of_counts(tp, fp, tn, fn, **options):
    """Exams with these counts at a threshold of 0.5."""
    counts = (tp, fp, tn, fn)
    target = np.repeat([1, 0, 0, 1], counts)
    return exams(target, np.repeat([0.9, 0.8, 0.1, 0.2], counts), **options)


def row_of(predictions, **options):
    table = operating_points(predictions, thresholds={"mae": 0.5}, **SETTINGS | options)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 1
    return table.iloc[0]


def interval(row, name):
    return row[f"{name}_low"], row[f"{name}_high"]


def test_wilson_is_statsmodels():
    successes, trials = np.array([0, 3, 81, 10]), np.array([10, 4, 263, 10])
    ours = wilson_interval(successes, trials, confidence=0.9)
    theirs = proportion_confint(successes, trials, alpha=0.1, method="wilson")
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    # Newcombe, Stat Med 1998;17:857, table I, method 3: 81 of 263
    low, high = wilson_interval(81, 263, confidence=0.95)
    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert np.isnan(wilson_interval(0, 0, confidence=0.95)).all()


def test_statistics_are_scikit_learns():
    generator = np.random.default_rng(0)
    probability = generator.random(400)
    target = (generator.random(400) < probability**2).astype(int)
    row, called = row_of(exams(target, probability)), probability >= 0.5
    assert (row["operating_point"], row["threshold"]) == (GIVEN, 0.5)
    assert (row["n"], row["positives"], row["method"]) == (400, target.sum(), CLOSED_FORM)
    expected = {
        "sensitivity": recall_score(target, called),
        "specificity": recall_score(target, called, pos_label=0),
        "ppv": precision_score(target, called),
        "npv": precision_score(target, called, pos_label=0),
        "accuracy": accuracy_score(target, called),
        "f1": f1_score(target, called),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value)
    assert row["tp"] + row["fn"] == target.sum()
    assert row["fp"] + row["tn"] == 400 - target.sum()
    wilson = proportion_confint(row["tp"], row["tp"] + row["fp"], method="wilson")
    assert interval(row, "ppv") == pytest.approx(wilson)


def test_likelihood_ratios_by_hand():
    """Simel's formula (J Clin Epidemiol 1991;44:763) written out for one table of counts."""
    row = row_of(of_counts(tp=45, fp=10, tn=90, fn=5))
    assert row["lr_positive"] == pytest.approx(0.9 / 0.1)
    assert row["lr_negative"] == pytest.approx(0.1 / 0.9)
    deviation = np.sqrt(1 / 45 - 1 / 50 + 1 / 10 - 1 / 100)
    assert interval(row, "lr_positive") == pytest.approx(
        (9 * np.exp(-1.959964 * deviation), 9 * np.exp(1.959964 * deviation))
    )
    deviation = np.sqrt(1 / 5 - 1 / 50 + 1 / 90 - 1 / 100)
    assert interval(row, "lr_negative") == pytest.approx(
        (np.exp(-1.959964 * deviation) / 9, np.exp(1.959964 * deviation) / 9)
    )


def test_the_closed_forms_agree_with_the_bootstrap():
    """Every exam twice under one patient's name: the same estimates, and the same certainty."""
    once = of_counts(tp=70, fp=60, tn=250, fn=30)
    closed = row_of(once)
    twice = of_counts(tp=140, fp=120, tn=500, fn=60, patient=np.arange(820) // 2)
    clustered = row_of(twice, resamples=4000)
    assert (closed["method"], clustered["method"]) == (CLOSED_FORM, CLUSTERED)
    for name in STATISTICS:
        assert clustered[name] == pytest.approx(closed[name])
        width = np.subtract(*interval(closed, name)[::-1])
        assert interval(clustered, name) == pytest.approx(interval(closed, name), abs=0.12 * width)


def test_no_interval_is_a_point():
    perfect = of_counts(tp=12, fp=0, tn=30, fn=0)
    for predictions in (
        perfect,
        of_counts(tp=24, fp=0, tn=60, fn=0, patient=np.arange(84) // 2),
    ):
        row = row_of(predictions)
        for name in ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1"):
            assert row[name] == 1 == row[f"{name}_high"]
        assert row["sensitivity_low"] == pytest.approx(wilson_interval(12, 12, confidence=0.95)[0])
        assert row["specificity_low"] == pytest.approx(wilson_interval(30, 30, confidence=0.95)[0])
        assert np.isnan([row["lr_positive"], row["lr_negative"], row["lr_positive_low"]]).all()


def test_what_is_missing_is_not_estimable():
    of_both = [f"{name}{end}" for name in STATISTICS[2:] for end in ("", "_low", "_high")]
    row = row_of(of_counts(tp=0, fp=3, tn=7, fn=0))
    assert row[["sensitivity", *of_both]].isna().all()
    assert row["specificity"] == 0.7
    row = row_of(of_counts(tp=4, fp=1, tn=0, fn=3))
    assert row[["specificity", *of_both]].isna().all()
    assert row["sensitivity"] == 4 / 7
    nobody_called = row_of(of_counts(tp=0, fp=0, tn=7, fn=3))
    assert np.isnan([nobody_called["ppv"], nobody_called["ppv_low"]]).all()
    assert nobody_called["sensitivity"] == 0
    # all positive exams are one patient's
    one = row_of(of_counts(tp=3, fp=3, tn=7, fn=0, patient=[0, 0, 0, *range(1, 11)]))
    assert one[["sensitivity", *of_both]].isna().all()
    assert one["specificity"] == 0.7
    two = row_of(of_counts(tp=3, fp=3, tn=7, fn=0, patient=[0, 0, 1, *range(2, 12)]))
    assert two[["sensitivity", "ppv", "npv", "accuracy", "f1", "ppv_low"]].notna().all()


def correlated(generator, positives, negatives, sensitivity=0.9, specificity=0.8):
    """Patients of one class each, with one to five exams whose latent scores correlate by 0.5."""
    size = generator.integers(1, 6, positives + negatives)
    patient = np.repeat(np.arange(size.size), size)
    target = patient < positives
    score = (
        generator.normal(size=size.size)[patient] + generator.normal(size=patient.size)
    ) / 2**0.5
    called = score < norm.ppf(np.where(target, sensitivity, 1 - specificity))
    return exams(target.astype(int), called.astype(float), patient=patient)


def test_clustered_intervals_by_definition():
    """Wilson's with n_eff = p (1 - p) / var; the log method with the variance of s*/s - t*/t."""
    predictions = correlated(np.random.default_rng(5), 20, 40)
    row = row_of(predictions)
    size = predictions["patient_id"].value_counts().sort_index().to_numpy()
    drawn = np.concatenate(list(resampled_patients(len(predictions), np.array([60]), 500, 0)))
    weights = np.repeat(drawn, size, axis=1)
    target, called = predictions["target"] == 1, predictions["probability"] > 0.5
    tp, fp, tn, fn = (target & called, ~target & called, ~target & ~called, target & ~called)
    masks = {
        "sensitivity": (tp, target), "specificity": (tn, ~target), "ppv": (tp, called),
        "npv": (tn, ~called), "accuracy": (tp | tn, target | ~target), "f1": (tp, tp | fp | fn),
    }  # fmt: skip
    for name, (above, below) in masks.items():
        share = above.sum() / below.sum()
        variance = ((weights @ above) / (weights @ below)).var()
        trials = min(share * (1 - share) / variance, below.sum())
        bounds = np.array(proportion_confint(share * trials, trials, method="wilson"))
        if name == "f1":
            share, bounds = 2 * share / (1 + share), 2 * bounds / (1 + bounds)
        assert row[name] == pytest.approx(share)
        assert interval(row, name) == pytest.approx(tuple(bounds)), name
    for name, (s, t) in zip(RATIOS, ((tp, fp), (fn, tn)), strict=True):
        relative = [
            (weights @ above) / (weights @ below) * below.sum() / above.sum()
            for above, below in ((s, target), (t, ~target))
        ]
        half = 1.959964 * (relative[0] - relative[1]).std()
        bounds = row[name] * np.exp([-half, half])
        assert interval(row, name) == pytest.approx(tuple(bounds)), name


def test_the_effective_size_is_at_most_the_exams():
    """Nearly every patient has a TP and a FN, so that sensitivity hardly varies."""
    positives = np.repeat([1, 0], 40).reshape(2, 40).T.ravel()
    called = [*positives, 1, 1, *np.repeat([1, 0], [5, 25])]
    predictions = exams(
        np.repeat([1, 0], [82, 30]), called, patient=[*np.repeat(np.arange(41), 2), *range(41, 71)]
    )
    row = row_of(predictions)
    expected = proportion_confint(42, 82, method="wilson")
    assert interval(row, "sensitivity") == pytest.approx(expected)


def test_no_likelihood_ratio_reaches_zero():
    """Many resamples miss the only patient with an FN, or with an FP."""
    patient = np.repeat(np.arange(36), 2)
    row = row_of(
        of_counts(tp=22, fp=2, tn=46, fn=2, patient=patient[[*range(22), *range(24, 72), 22, 23]])
    )
    assert row["method"] == CLUSTERED
    for name in RATIOS:
        low, high = interval(row, name)
        assert 0 < low < row[name] < high < np.inf


@pytest.mark.slow
@pytest.mark.parametrize("positives", [20, 50])
def test_clustered_intervals_cover_the_truth(positives):
    true = {"sensitivity": 0.9, "specificity": 0.8, "lr_positive": 4.5, "lr_negative": 0.125}
    generator = np.random.default_rng(1)
    covered: dict[str, list[bool]] = {name: [] for name in true}
    for _ in range(500):
        row = row_of(correlated(generator, positives, 2 * positives), resamples=400)
        for name, value in true.items():
            if not np.isnan(row[name]):
                covered[name].append(row[f"{name}_low"] <= value <= row[f"{name}_high"])
    shares = {name: np.mean(values) for name, values in covered.items()}
    assert all(0.92 <= share <= 0.97 for share in shares.values()), shares


def test_thresholds_come_from_validation_exams_only():
    generator = np.random.default_rng(3)
    parts = []
    for split, institution, n in (
        ("val", "home", 120), ("val", "home2", 80), ("test", "home", 90),
        ("external", "north", 100), ("external", "south", 60),
    ):  # fmt: skip
        target = (generator.random(n) < 0.4).astype(int)
        probability = np.clip(0.4 + 0.2 * target + 0.2 * generator.normal(size=n), 0, 1)
        parts.append(exams(target, probability, split, institution))
    predictions = pd.concat(parts)
    table = operating_points(predictions, **SETTINGS, sensitivity=0.8)
    assert list(table["institution"].unique()) == ["home", "north", "south", "all-external"]
    assert list(table["operating_point"]) == [YOUDEN, "sensitivity 0.80"] * 4
    validation = predictions[predictions["split"] == "val"]
    target, probability = validation["target"], validation["probability"]
    youden, fixed = (table["threshold"][point::2].unique() for point in (0, 1))
    assert youden == pytest.approx([youden_threshold(target, probability)])
    assert fixed == pytest.approx([sensitivity_threshold(target, probability, 0.8)])
    pooled = table[table["institution"] == "all-external"].iloc[0]
    parts = table[table["role"] == "external"][::2]
    assert (pooled["tp"], pooled["n"]) == (parts["tp"].sum(), 160)


def test_without_validation_exams_nothing_is_chosen():
    predictions = of_counts(tp=9, fp=2, tn=20, fn=3)
    table = operating_points(predictions, **SETTINGS)
    assert list(table["method"]) == [NOT_ESTIMABLE] * 2
    assert table[["threshold", "sensitivity", "tp"]].isna().all(axis=None)
    with pytest.raises(InputError, match=r"cnn.*models in the table are mae"):
        operating_points(predictions, thresholds={"cnn": 0.5}, **SETTINGS)


def test_threshold_at_fixed_sensitivity():
    target = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    probability = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.5, 0.2, 0.1])
    assert sensitivity_threshold(target, probability, 0.75) == pytest.approx(0.55)
    assert sensitivity_threshold(target, probability, 0.76) == pytest.approx(0.25)
    assert sensitivity_threshold(target, probability, 0.25) == pytest.approx(0.85)
    # all alike: everything is called
    assert sensitivity_threshold([1, 0], [0.4, 0.4], 0.9) == 0.4
    with pytest.raises(ValueError, match="both classes"):
        sensitivity_threshold([0, 0], [0.1, 0.2], 0.9)
