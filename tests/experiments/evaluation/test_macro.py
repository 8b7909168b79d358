"""The macro average against DeLong, scikit-learn, brute force and simulations."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from experiments.evaluation.auroc import auroc_interval
from experiments.evaluation.comparison import compare
from experiments.evaluation.heterogeneity import pooled_aurocs
from experiments.evaluation.macro import (
    BY_PATIENTS,
    FMAX_THRESHOLDS,
    MEASURES,
    PAIRED,
    compare_macro,
    left_out_labels,
    macro_measures,
    macro_summary,
    pooled_macro,
)
from experiments.evaluation.predictions import check_predictions
from experiments.evaluation.summary import summarise

SETTINGS = {"confidence": 0.95, "resamples": 200, "seed": 0}


def table(labels=3, patients=60, exams=1, models=("a", "b"), institutions=("north",), seed=0):
    """Labels of growing prevalence, which a patient's exams share in part; model a is the better
    one."""
    generator = np.random.default_rng(seed)
    rows = []
    for institution in institutions:
        patient = np.repeat(np.arange(patients), exams)
        ill = generator.normal(size=patients)[patient]
        noise = generator.normal(size=(len(models), patients))[:, patient]
        for label in range(labels):
            target = ill + generator.normal(size=patient.size) > norm.ppf(0.8 - 0.1 * label)
            for number, model in enumerate(models):
                score = (1.5 - 0.6 * number) * target + 0.7 * noise[number]
                score = score + 0.7 * generator.normal(size=patient.size) - 1
                rows.append(
                    pd.DataFrame(
                        {
                            "model": model,
                            "label": f"label {label}",
                            "institution": institution,
                            "split": "external",
                            "patient_id": patient.astype(str),
                            "exam_id": np.arange(patient.size).astype(str),
                            "target": target.astype(int),
                            "logit": score,
                            "probability": 1 / (1 + np.exp(-score)),
                        }
                    )
                )
    return check_predictions(pd.concat(rows, ignore_index=True), "made")


def wide(predictions, model="a"):
    """Targets and probabilities [exams, labels] of a model."""
    rows = predictions[predictions["model"] == model]
    return (
        rows.pivot(index=["institution", "exam_id"], columns="label", values=column)
        for column in ("target", "probability")
    )


def test_of_one_label_and_independent_exams_it_is_delongs():
    one = table(labels=1)
    macro, alone = macro_summary(one, confidence=0.95), summarise(one, **SETTINGS)
    bounds = ["n", "positives", "auroc", "auroc_low", "auroc_high"]
    np.testing.assert_allclose(macro[bounds].astype(float), alone[bounds].astype(float), rtol=1e-12)
    assert set(macro["label"]) == {"macro average"}
    assert set(macro["method"]) == {BY_PATIENTS}
    tested, delong = compare_macro(one, confidence=0.95), compare(one, **SETTINGS)
    figures = ["auroc_a", "difference", "difference_low", "difference_high", "z", "p", "p_holm"]
    np.testing.assert_allclose(tested[figures], delong[figures], rtol=1e-9)
    assert set(tested["method"]) == {PAIRED}


def test_the_mean_is_scikit_learns():
    predictions = table(institutions=("north", "south"))
    summary = macro_summary(predictions, confidence=0.95).set_index(["model", "institution"])
    target, probability = wide(predictions)
    for institution in ("north", "south"):
        expected = roc_auc_score(
            target.loc[institution], probability.loc[institution], average="macro"
        )
        assert summary.loc[("a", institution), "auroc"] == pytest.approx(expected, abs=1e-12)
    pooled = summary.loc[("a", "all-external")]
    assert pooled["auroc"] == pytest.approx(roc_auc_score(target, probability, average="macro"))
    assert (pooled["role"], pooled["n"], pooled["labels"]) == ("pooled", 120, 3)
    assert pooled["positives"] == target.any(axis=1).sum()


def mean_auroc(target, score):
    """By ranks, of columns [exams, labels]."""
    positives = target.sum(axis=0)
    wins = (rankdata(score, axis=0) * target).sum(axis=0) - positives * (positives + 1) / 2
    return (wins / (positives * (len(target) - positives))).mean()


@pytest.mark.parametrize(("exams", "institutions"), [(1, 1), (3, 1), (2, 2)])
def test_its_spread_is_that_of_a_bootstrap_of_patients(exams, institutions):
    names = [f"site{number}" for number in range(institutions)]
    predictions = table(patients=200, exams=exams, institutions=names)
    summary = macro_summary(predictions, confidence=0.95)
    row = summary[summary["model"] == "a"].iloc[-1]
    difference = compare_macro(predictions, confidence=0.95).iloc[-1]
    target, probability = wide(predictions)
    other = list(wide(predictions, "b"))[1]
    patient = target.index.get_level_values("exam_id").astype(int) // exams
    patient = patient + 1000 * pd.factorize(target.index.get_level_values("institution"))[0]
    members = pd.Series(np.arange(len(target))).groupby(np.asarray(patient)).agg(list)
    of_site = pd.Series(members.index // 1000)
    ill, first, second = target.to_numpy(), probability.to_numpy(), other.to_numpy()
    assert mean_auroc(ill, first) == pytest.approx(roc_auc_score(ill, first))
    generator, values, differences = np.random.default_rng(1), [], []
    for _ in range(600):
        drawn = np.concatenate(
            [generator.choice(sites, sites.size) for _, sites in
             pd.Series(np.arange(len(members))).groupby(of_site)]
        )  # fmt: skip
        rows = np.concatenate(members.iloc[drawn].tolist())
        one, two = (mean_auroc(ill[rows], scores[rows]) for scores in (first, second))
        values.append(one)
        differences.append(one - two)
    width = 2 * norm.ppf(0.975)
    assert row["auroc_high"] - row["auroc_low"] == pytest.approx(width * np.std(values), rel=0.12)
    error = (difference["difference_high"] - difference["difference_low"]) / width
    assert error == pytest.approx(np.std(differences), rel=0.12)


def test_what_is_not_estimable_is_left_out_and_named():
    predictions = table()
    predictions.loc[predictions["label"] == "label 0", "target"] = 0
    summary = macro_summary(predictions, confidence=0.95).iloc[0]
    assert (summary["labels"], summary["left_out"]) == (2, "label 0")
    target, probability = wide(predictions)
    expected = roc_auc_score(target.iloc[:, 1:], probability.iloc[:, 1:])
    assert summary["auroc"] == pytest.approx(expected)
    assert macro_measures(predictions, **SETTINGS)["labels"].tolist() == [2, 2]
    assert compare_macro(predictions, confidence=0.95)["labels"].tolist() == [2]
    nobody = predictions.assign(target=0)
    assert macro_summary(nobody, confidence=0.95)["auroc"].isna().all()
    assert macro_measures(nobody, **SETTINGS)["fmax"].isna().all()
    assert compare_macro(nobody, confidence=0.95)["difference"].isna().all()


def test_labels_may_have_different_exams():
    predictions = table()
    unknown = (predictions["label"] == "label 1") & (predictions["exam_id"].astype(int) < 25)
    known = predictions[~unknown]
    aurocs = [
        roc_auc_score(rows["target"], rows["probability"])
        for _, rows in known[known["model"] == "a"].groupby("label")
    ]
    row = macro_summary(known, confidence=0.95).iloc[0]
    assert row["auroc"] == pytest.approx(np.mean(aurocs))
    assert row["n"] == 60


def test_a_pair_is_compared_on_exams_and_labels_that_both_have():
    predictions = table()
    lost = (predictions["model"] == "b") & (
        (predictions["label"] == "label 2")
        | ((predictions["label"] == "label 1") & (predictions["exam_id"] == "7"))
    )
    row = compare_macro(predictions[~lost], confidence=0.95).iloc[0]
    common = predictions[predictions["label"] != "label 2"]
    common = common[~((common["label"] == "label 1") & (common["exam_id"] == "7"))]
    alone = compare_macro(common, confidence=0.95).iloc[0]
    figures = ["auroc_a", "auroc_b", "difference", "p"]
    assert row[figures].tolist() == pytest.approx(alone[figures].tolist())
    assert row["labels"] == 2
    assert row["left_out"] == 60  # of label 2 all


def test_models_that_order_exams_alike_do_not_differ():
    predictions = table()
    of_a = predictions[predictions["model"] == "a"]
    twin = of_a.assign(model="twin", probability=of_a["probability"] ** 2)
    row = compare_macro(pd.concat([of_a, twin]), confidence=0.95).iloc[0]
    assert (row["difference"], row["z"], row["p"]) == (0, 0, 1)


def test_average_precisions_are_scikit_learns():
    predictions = table(exams=2)
    row = macro_measures(predictions, **SETTINGS).iloc[0]
    target, probability = wide(predictions)
    for average in ("macro", "micro"):
        expected = average_precision_score(target, probability, average=average)
        name = f"{average}_average_precision"
        assert row[name] == pytest.approx(expected)
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_fmax_by_its_definition():
    predictions = table()
    row = macro_measures(predictions, **SETTINGS).iloc[0]
    target, probability = (values.to_numpy() for values in wide(predictions))
    scores = []
    for threshold in FMAX_THRESHOLDS:
        called = (probability >= threshold).astype(int)
        some, ill = called.any(axis=1), target.any(axis=1)
        if not some.any():
            scores.append(0.0)
            continue
        options = {"average": "samples", "zero_division": 0}
        precision = precision_score(target[some], called[some], **options)
        recall = recall_score(target[ill], called[ill], **options)
        both = precision + recall
        scores.append(2 * precision * recall / both if both else 0.0)
    assert row["fmax"] == pytest.approx(max(scores))
    assert row["fmax_threshold"] == FMAX_THRESHOLDS[int(np.argmax(scores))]
    assert row["fmax_low"] < row["fmax"] < row["fmax_high"]


def test_intervals_hold_what_is_true():
    """Six rare labels that one patient's exams share, at an AUROC of 0.9."""
    held, generator = [], np.random.default_rng(5)
    gain = norm.ppf(0.9) * np.sqrt(2)
    for _ in range(100):
        rows = []
        ill = np.repeat(generator.normal(size=120), 2)
        for label in range(6):
            target = 0.5 * ill + generator.normal(size=240) > norm.ppf(0.92) * np.sqrt(1.25)
            score = gain * target + generator.normal(size=240)
            rows.append(
                pd.DataFrame(
                    {
                        "model": "a", "label": str(label), "institution": "north",
                        "split": "external", "patient_id": np.arange(240) // 2,
                        "exam_id": np.arange(240), "target": target.astype(int),
                        "probability": norm.cdf(score),
                    }
                )
            )  # fmt: skip
        row = macro_summary(pd.concat(rows, ignore_index=True), confidence=0.95).iloc[0]
        held.append(row["auroc_low"] <= 0.9 <= row["auroc_high"])
    assert 0.9 < np.mean(held) <= 0.995


def test_a_perfect_model_has_an_interval():
    predictions = table()
    perfect = predictions.assign(probability=0.2 + 0.6 * predictions["target"])
    row = macro_summary(perfect, confidence=0.95).iloc[0]
    assert row["auroc"] == row["auroc_high"] == 1
    alone = [
        auroc_interval(rows["target"], rows["probability"], rows["patient_id"], **SETTINGS).low
        for _, rows in perfect[perfect["model"] == "a"].groupby("label")
    ]
    assert max(alone) < row["auroc_low"] < 1


def test_institutions_with_other_labels_are_in_no_mean_over_hospitals():
    predictions = table(institutions=("north", "south", "east", "west"))
    nobody = predictions["institution"].isin(["east", "west"]) & (predictions["label"] == "label 0")
    predictions.loc[nobody, "target"] = 0
    summary = macro_summary(predictions, confidence=0.95)
    alike = summary[summary["institution"].isin(["north", "south"])]
    expected = pooled_aurocs(alike, confidence=0.95).drop(columns="left_out")
    pooled = pooled_macro(summary, confidence=0.95)
    pd.testing.assert_frame_equal(pooled.drop(columns="left_out"), expected)
    assert set(pooled["left_out"]) == {"east, west"}


def test_labels_left_out_are_told_apart_whatever_their_names():
    predictions = table().replace({"label": {"label 0": "c, d", "label 1": "e"}})
    predictions.loc[predictions["label"] != "label 2", "target"] = 0
    left_out = macro_summary(predictions, confidence=0.95)["left_out"].iloc[0]
    assert left_out_labels(left_out) == ["c, d", "e"]
    assert left_out_labels("") == []


def test_intervals_of_measures_stay_within_0_and_1_and_hold_their_value():
    generator = np.random.default_rng(3)
    exam = np.arange(60)
    rows = []
    for number in range(2):
        target = exam % 12 == number
        logit = generator.normal(size=60) + 6 * target - 3
        rows.append(
            pd.DataFrame(
                {
                    "model": "a", "label": f"label {number}", "institution": "north",
                    "split": "external", "patient_id": exam, "exam_id": exam,
                    "target": target.astype(int), "logit": logit,
                    "probability": 1 / (1 + np.exp(-logit)),
                }
            )
        )  # fmt: skip
    made = macro_measures(check_predictions(pd.concat(rows), "made"), **SETTINGS).iloc[0]
    assert max(made[f"{name}_high"] for name in MEASURES) <= 1
    for name in MEASURES:
        assert 0 <= made[f"{name}_low"] <= made[name] <= made[f"{name}_high"]
