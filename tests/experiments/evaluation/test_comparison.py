"""Paired comparisons against DeLong's definition, published results and simulations."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from datamodules.errors import InputError
from experiments.evaluation.auroc import CLUSTERED, DELONG, NOT_ESTIMABLE
from experiments.evaluation.comparison import (
    COLUMNS,
    JSON_KEYS,
    common_exams,
    comparable,
    compare,
    comparison_table,
    comparisons_json,
    holm,
)
from experiments.evaluation.predictions import check_predictions

SETTINGS = {"confidence": 0.95, "resamples": 300, "seed": 0}


def table(target, scores, institution="north", split="external", patient=None, exam=None):
    """A predictions table of the models `scores` (name -> score [n]); one exam a patient if not
    told otherwise."""
    n = len(target)
    parts = [
        pd.DataFrame(
            {
                "model": model,
                "institution": institution,
                "split": split,
                "patient_id": [f"p{p}" for p in (np.arange(n) if patient is None else patient)],
                "exam_id": np.arange(n).astype(str) if exam is None else exam,
                "target": np.asarray(target).astype(int),
                "logit": np.asarray(score, dtype=float),
                "probability": np.asarray(score, dtype=float),
            }
        )
        for model, score in scores.items()
    ]
    return pd.concat(parts, ignore_index=True)


def correlated(generator, target, gains):
    """Scores of one model a gain, on one noise they share and one of their own."""
    shared = generator.normal(size=len(target))
    return {
        f"m{number}": gain * target + shared + generator.normal(size=len(target))
        for number, gain in enumerate(gains)
    }


def delong_z(target, one, other):
    """DeLong, DeLong & Clarke-Pearson 1988, from every pair of a positive and a negative exam."""
    components = []
    for score in (one, other):
        positive, negative = score[target == 1][:, None], score[target == 0][None]
        psi = (positive > negative) + 0.5 * (positive == negative)
        components.append((psi.mean(axis=1), psi.mean(axis=0), psi.mean()))
    (v10_a, v01_a, theta_a), (v10_b, v01_b, theta_b) = components
    covariance = np.cov(v10_a, v10_b) / len(v10_a) + np.cov(v01_a, v01_b) / len(v01_a)
    contrast = np.array([1, -1])
    error = np.sqrt(contrast @ covariance @ contrast)
    return theta_a - theta_b, error


@pytest.mark.parametrize("decimals", [15, 0])  # 0: many ties
def test_delong_is_its_definition(decimals):
    generator = np.random.default_rng(0)
    target = (generator.random(150) < 0.3).astype(int)
    scores = {
        model: score.round(decimals)
        for model, score in correlated(generator, target, (0.5, 1.0, 2.0)).items()
    }
    result = compare(table(target, scores), confidence=0.9, resamples=300, seed=0)
    assert list(zip(result["model_a"], result["model_b"], strict=True)) == [
        ("m0", "m1"), ("m0", "m2"), ("m1", "m2"),
    ]  # fmt: skip
    for row in result.itertuples():
        difference, error = delong_z(target, scores[row.model_a], scores[row.model_b])
        assert (row.method, row.n, row.left_out) == (DELONG, 150, 0)
        assert row.auroc_a == pytest.approx(roc_auc_score(target, scores[row.model_a]))
        assert row.auroc_b == pytest.approx(roc_auc_score(target, scores[row.model_b]))
        assert row.difference == pytest.approx(difference)
        assert row.z == pytest.approx(difference / error)
        assert row.p == pytest.approx(2 * norm.cdf(-abs(difference / error)))
        half = norm.ppf(0.95) * error
        assert row.difference_low == pytest.approx(difference - half)
        assert row.difference_high == pytest.approx(difference + half)


def test_the_published_example_is_reproduced(real_data):
    """Turck 2010's patients: roc.test of the R package pROC."""
    patients = pd.read_csv(real_data / "statistics" / "asah.csv")
    predictions = table(patients["poor_outcome"], patients[["s100b", "wfns", "ndka"]])
    result = compare(predictions, **SETTINGS).set_index(["model_a", "model_b"])
    with_wfns, with_ndka = result.loc["s100b", "wfns"], result.loc["s100b", "ndka"]
    assert (with_wfns["z"], with_wfns["p"]) == pytest.approx((-2.2090, 0.02718), abs=5e-5)
    assert (with_ndka["z"], with_ndka["p"]) == pytest.approx((1.3908, 0.1643), abs=5e-5)
    assert with_wfns["auroc_a"] == pytest.approx(0.73137, abs=5e-6)
    assert with_wfns["auroc_b"] == pytest.approx(0.82368, abs=5e-6)


def test_patients_with_several_exams_are_resampled():
    """Each exam thrice tells no more than once: the bootstrap has to agree with DeLong's test."""
    generator = np.random.default_rng(1)
    target = np.repeat([1, 0], [60, 140])
    scores = correlated(generator, target, (0.6, 1.2))
    once = compare(table(target, scores), **SETTINGS).iloc[0]
    thrice = table(
        np.repeat(target, 3),
        {model: np.repeat(score, 3) for model, score in scores.items()},
        patient=np.repeat(np.arange(200), 3),
    )
    settings = {"confidence": 0.95, "resamples": 4000, "seed": 0}
    clustered = compare(thrice, **settings).iloc[0]
    assert (once["method"], clustered["method"]) == (DELONG, CLUSTERED)
    assert clustered["n"] == 600
    assert clustered["difference"] == pytest.approx(once["difference"])
    # unpaired resamples would have 1.4 times the standard error
    assert clustered["z"] == pytest.approx(once["z"], rel=0.05)
    assert clustered["p"] == pytest.approx(2 * norm.sf(abs(clustered["z"])))
    for end in ("difference_low", "difference_high"):
        assert clustered[end] == pytest.approx(once[end], abs=0.006)
    mixed = thrice.sample(frac=1, random_state=0)
    again = compare(mixed, pairs=[("m0", "m1")], **settings).iloc[0]
    pd.testing.assert_series_equal(again, clustered)
    other = compare(thrice, confidence=0.95, resamples=4000, seed=1).iloc[0]
    assert other["difference"] == clustered["difference"]
    assert other["z"] != clustered["z"]


def test_true_hypotheses_are_rejected_as_often_as_promised():
    """Five pairs of equally good models at 80 institutions; half of these see patients twice."""
    generator = np.random.default_rng(2)
    pairs = [(f"a{number}", f"b{number}") for number in range(5)]
    parts = []
    for number in range(80):
        target, patient = np.repeat([1, 0], [40, 80]), np.arange(120)
        scores = {}
        for pair in pairs:
            scores |= dict(zip(pair, correlated(generator, target, (1, 1)).values(), strict=True))
        if number % 2:
            target, patient = np.tile(target, 2), np.tile(patient, 2)
            scores = {
                model: np.tile(score, 2) + 0.3 * generator.normal(size=240)
                for model, score in scores.items()
            }
        parts.append(table(target, scores, f"h{number}", "test", patient))
    result = compare(pd.concat(parts), pairs=pairs, confidence=0.95, resamples=200, seed=0)
    for method in (DELONG, CLUSTERED):
        of_method = result[result["method"] == method]
        assert len(of_method) == 200
        # 5 % of 200 are 10, with a standard deviation of 3
        assert 0.015 <= (of_method["p"] < 0.05).mean() <= 0.10
        covered = (of_method["difference_low"] <= 0) & (of_method["difference_high"] >= 0)
        assert 0.90 <= covered.mean() <= 0.985


def several_institutions():
    """`home` developed on; `north` (patients come twice), `south` and `east` (no case) external."""
    generator = np.random.default_rng(3)
    parts = []
    for institution, split, n, prevalence in (
        ("north", "external", 120, 0.3),
        ("home", "val", 60, 0.3),
        ("home", "test", 80, 0.3),
        ("south", "external", 100, 0.4),
        ("east", "external", 40, 0.0),
    ):
        target = (np.arange(n) < prevalence * n).astype(int)
        patient = np.arange(n) // (2 if institution == "north" else 1) + 1000 * (split == "val")
        scores = correlated(generator, target, (2.5, 0.5, 0.4))
        exam = [f"{split}{number}" for number in range(n)]
        parts.append(table(target, scores, institution, split, patient, exam))
    predictions = pd.concat(parts, ignore_index=True)
    predictions["probability"] = 1 / (1 + np.exp(-predictions["logit"]))
    return check_predictions(predictions, "made here")


@pytest.fixture(scope="module")
def predictions():
    return several_institutions()


@pytest.fixture(scope="module")
def compared(predictions):
    return compare(predictions, **SETTINGS)


def test_rows_and_roles(compared):
    assert tuple(compared.columns) == COLUMNS
    assert len(compared) == 3 * 5
    first = compared.iloc[:5]
    assert set(zip(first["model_a"], first["model_b"], strict=True)) == {("m0", "m1")}
    assert list(first["institution"]) == ["home", "north", "south", "east", "all-external"]
    assert list(first["role"]) == ["development", *["external"] * 3, "pooled"]
    assert list(first["n"]) == [80, 120, 100, 40, 260]  # of `home` the internal test only
    assert list(first["method"]) == [DELONG, CLUSTERED, DELONG, NOT_ESTIMABLE, CLUSTERED]


def test_pairs_can_be_chosen(predictions, compared):
    one = compare(predictions, pairs=[("m2", "m0")], **SETTINGS)
    other_way = compared[(compared["model_a"] == "m0") & (compared["model_b"] == "m2")]
    assert set(one["model_a"]) == {"m2"}
    np.testing.assert_allclose(one["z"], -other_way["z"])
    np.testing.assert_allclose(one["difference_low"], -other_way["difference_high"])
    with pytest.raises(InputError, match="no predictions of vit.*are m0, m1, m2"):
        compare(predictions, pairs=[("m0", "vit")], **SETTINGS)


def test_one_external_institution_is_not_pooled(predictions):
    one = predictions[predictions["institution"].isin(["home", "south"])]
    assert set(compare(one, **SETTINGS)["role"]) == {"development", "external"}
    nothing = compare(predictions[predictions["split"] == "val"], **SETTINGS)
    assert nothing.empty
    assert tuple(nothing.columns) == COLUMNS
    assert comparisons_json(nothing) == []
    assert list(comparison_table(nothing).columns[:3]) == ["institution", "role", "models"]
    assert compare(predictions[predictions["model"] == "m0"], **SETTINGS).empty
    # of two institutions, the models share one only
    apart = predictions[(predictions["model"] != "m0") | (predictions["institution"] != "north")]
    apart = apart[apart["institution"].isin(["north", "south"])]
    rows = compare(apart, pairs=[("m0", "m1")], **SETTINGS).set_index("institution")
    assert list(rows.index) == ["north", "south"]
    assert (rows.at["north", "n"], rows.at["north", "left_out"]) == (0, 120)
    assert rows.at["north", "method"] == NOT_ESTIMABLE


def test_a_patient_id_holds_within_its_institution(predictions):
    once = predictions[predictions["institution"].isin(["south", "east"])]
    pooled = compare(once, **SETTINGS).set_index("role").loc["pooled"]
    assert set(pooled["method"]) == {DELONG}


def test_only_common_exams_count(predictions, compared):
    """m0 lacks 15 exams of `south`, m1 other 5; exam ids are the same in every institution."""
    at_south = predictions["institution"] == "south"
    number = predictions["exam_id"].str.extract(r"(\d+)", expand=False).astype(int)
    absent = at_south & (
        ((predictions["model"] == "m0") & (number % 100 >= 85))
        | ((predictions["model"] == "m1") & number.between(50, 54))
    )
    result = compare(predictions[~absent], **SETTINGS)
    at = result[result["institution"] == "south"].set_index(["model_a", "model_b"])
    assert list(at["n"]) == [80, 85, 95]
    assert list(at["left_out"]) == [20, 15, 5]
    both = predictions[at_south & (number < 85) & ~number.between(50, 54)]
    expected = compare(both, pairs=[("m0", "m1")], **SETTINGS).iloc[0]
    for column in ("auroc_a", "auroc_b", "difference", "z", "p"):
        assert at.loc[("m0", "m1"), column] == pytest.approx(expected[column])
    untouched = result["institution"].isin(["home", "north", "east"])
    columns = [column for column in COLUMNS if column != "p_holm"]
    pd.testing.assert_frame_equal(
        result.loc[untouched, columns], compared.loc[untouched.to_numpy(), columns]
    )
    pooled = result[(result["role"] == "pooled") & (result["model_b"] == "m1")].iloc[0]
    assert (pooled["n"], pooled["left_out"]) == (240, 20)


def test_common_exams(predictions):
    absent = (predictions["model"] == "m0") & predictions["exam_id"].isin(["external3", "val2"])
    common = common_exams(predictions[~absent], ["m1", "m0"])
    assert set(common["model"]) == {"m0", "m1"}
    # external3 at three institutions, val2 at one
    assert len(common) == 2 * (len(predictions) / 3 - 4)
    assert not common["exam_id"].isin(["external3", "val2"]).any()
    pd.testing.assert_frame_equal(common_exams(predictions, ["m0", "m1", "m2"]), predictions)
    with pytest.raises(InputError, match="no predictions of vit"):
        common_exams(predictions, ["m0", "vit"])
    home = (predictions["model"] == "m0") & (predictions["institution"] == "home")
    elsewhere = (predictions["model"] == "m1") & (predictions["institution"] == "north")
    with pytest.raises(InputError, match="no exam has predictions of all of m0, m1"):
        common_exams(predictions[home | elsewhere], ["m0", "m1"])


@pytest.mark.parametrize(("column", "value"), [("target", 0), ("patient_id", "p99")])
def test_models_that_contradict_each_other_are_refused(predictions, column, value):
    row = predictions.index[
        (predictions["model"] == "m2")
        & (predictions["institution"] == "south")
        & (predictions["exam_id"] == "external7")
    ]
    wrong = predictions.copy()
    wrong.loc[row, column] = value
    with pytest.raises(InputError) as caught:
        compare(wrong, **SETTINGS)
    message = str(caught.value)
    assert "contradict each other about 1 value" in message
    assert f"exam 'external7' of south, {column}: " in message
    assert "for model 'm2'" in message
    assert message.endswith("for 'm0'")


def test_models_must_agree_on_validation_exams_too(predictions):
    """Their thresholds and recalibration come from these."""
    wrong = predictions.copy()
    of_m1 = (wrong["model"] == "m1") & (wrong["split"] == "val")
    wrong.loc[of_m1, "target"] = 1 - wrong.loc[of_m1, "target"]
    with pytest.raises(InputError, match="contradict each other about 60 value"):
        compare(wrong, **SETTINGS)


def test_models_that_order_exams_alike_do_not_differ():
    generator = np.random.default_rng(4)
    target = np.repeat([1, 0], [20, 30])
    score = generator.normal(size=50) + target
    for patient in (np.arange(50), np.arange(50) // 2):
        alike = table(target, {"a": score, "b": np.exp(score)}, patient=patient)
        row = compare(alike, **SETTINGS).iloc[0]
        assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)
        assert (row["z"], row["p"], row["p_holm"]) == (0, 1, 1)


def test_nothing_is_said_about_a_difference_that_cannot_vary():
    generator = np.random.default_rng(5)
    target = np.repeat([1, 0], [20, 30])
    scores = {
        "perfect": target + 0.1 * generator.random(50),
        "perfect too": target + 0.1 * generator.random(50),
        "constant": np.zeros(50),
    }
    result = compare(table(target, scores), **SETTINGS)
    assert list(result["difference"]) == [0, 0.5, 0.5]
    assert list(result["auroc_a"]) == [1, 1, 1]
    unknown = ["difference_low", "difference_high", "z", "p", "p_holm"]
    assert result[unknown].isna().all(axis=None)
    assert set(result["method"]) == {NOT_ESTIMABLE}


def test_holm_by_hand():
    """The four p-values of Wikipedia's article on the method, 0.01, 0.04, 0.03 and 0.005."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, np.nan, 0.5]), [1.0, np.nan, 1.0])
    assert holm([]).size == 0


def test_holm_is_the_step_down_procedure():
    """Corrected values are at most alpha just where Holm's sequence of tests rejects."""
    generator = np.random.default_rng(6)
    p = generator.random(8) ** 4
    for alpha in (0.01, 0.05, 0.2, 0.5):
        rejected = np.zeros(8, dtype=bool)
        for step, index in enumerate(np.argsort(p)):
            if p[index] > alpha / (8 - step):
                break
            rejected[index] = True
        np.testing.assert_array_equal(holm(p) <= alpha, rejected)


def test_the_external_institutions_are_one_family(compared):
    for _, rows in compared.groupby(["model_a", "model_b"]):
        rows = rows.set_index("institution")
        p, corrected = rows["p"], rows["p_holm"]
        low, high = sorted([p["north"], p["south"]])
        expected = {low: min(2 * low, 1), high: min(max(2 * low, high), 1)}
        assert [corrected["north"], corrected["south"]] == pytest.approx(
            [expected[p["north"]], expected[p["south"]]]
        )
        assert np.isnan(corrected["east"])
        assert corrected["all-external"] == p["all-external"]
        assert corrected["home"] == p["home"]


def test_json_has_the_promised_keys_and_null(compared):
    rows = json.loads(json.dumps(comparisons_json(compared), allow_nan=False))
    assert len(rows) == 15
    assert all(tuple(row) == JSON_KEYS for row in rows)
    east = next(row for row in rows if row["institution"] == "east")
    assert (east["n"], east["method"]) == (40, NOT_ESTIMABLE)
    assert [east[key] for key in JSON_KEYS[5:13]] == [None] * 8
    assert type(rows[0]["n"]) is int


def test_table_for_people(compared):
    people = comparison_table(compared).set_index("institution")
    assert list(people["models"].iloc[:5]) == ["m0 - m1"] * 5
    pooled = compared[compared["role"] == "pooled"].iloc[0]
    assert pooled["p"] < 0.001
    row = people[people["models"] == "m0 - m1"].loc["all-external"]
    assert row["p"] == "p < 0.001"
    assert row["difference"] == (
        f"+{pooled['difference']:.3f} "
        f"(+{pooled['difference_low']:.3f} to +{pooled['difference_high']:.3f})"
    )
    assert row["AUROCs"] == f"{pooled['auroc_a']:.3f} - {pooled['auroc_b']:.3f}"
    similar = people[people["models"] == "m1 - m2"].loc["south"]
    p = compared[(compared["model_a"] == "m1") & (compared["institution"] == "south")]["p"]
    assert similar["p"] == f"p = {p.iloc[0]:.3f}"
    assert set(
        people.loc["east"][["difference", "p", "p (Holm)", "AUROCs"]].to_numpy().ravel()
    ) == {"not estimable"}


def of_equal_models(sets, positives, negatives, most_exams, seed):
    """Each set an institution; patients have 1 to `most_exams` exams that resemble each other."""
    generator = np.random.default_rng(seed)
    patients = positives + negatives
    exams = generator.integers(1, most_exams + 1, size=sets * patients)
    exams[::patients] = most_exams
    patient = np.repeat(np.arange(sets * patients), exams)
    target = patient % patients < positives
    shared, *own = generator.normal(size=(3, sets * patients))
    tables = []
    for number, of_model in enumerate(own):
        noise = 0.6 * (shared + of_model)[patient] + 0.5 * generator.normal(size=patient.size)
        logit = 1.2 * target + noise
        tables.append(
            pd.DataFrame(
                {
                    "model": f"m{number}",
                    "institution": (patient // patients).astype(str),
                    "split": "external",
                    "patient_id": patient.astype(str),
                    "exam_id": np.arange(patient.size).astype(str),
                    "target": target.astype(int),
                    "logit": logit,
                    "probability": 1 / (1 + np.exp(-logit)),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize(("most_exams", "least"), [(1, 5), (3, 10)])
def test_with_few_patients_of_a_class_there_is_a_difference_and_no_test(most_exams, least):
    settings = {"confidence": 0.95, "resamples": 50, "seed": 0}
    for positives in (least - 1, least):
        table = compare(of_equal_models(1, positives, 30, most_exams, 0), **settings)
        assert table["difference"].notna().all()
        enough = positives == least
        assert table[["p", "p_holm", "z", "difference_low"]].notna().all(axis=None) == enough
        assert (table["method"] != NOT_ESTIMABLE).all() == enough


@pytest.mark.slow
@pytest.mark.parametrize(("most_exams", "least", "sets"), [(1, 5, 4000), (4, 10, 1500)])
def test_equal_models_seldom_differ(most_exams, least, sets):
    table = of_equal_models(sets, least, 50, most_exams, 1)
    found = compare(table, confidence=0.95, resamples=500, seed=0)
    p = found.loc[found["role"] == "external", "p"]
    assert p.notna().all()
    assert 0.03 < (p < 0.05).mean() < 0.075
    assert (p < 0.001).mean() < 0.006


def test_models_on_different_exams_are_judged_on_those_that_all_have(predictions):
    lacking = (predictions["model"] == "m1") & (predictions["institution"] == "south")
    lacking |= (predictions["model"] == "m2") & (predictions["split"] == "val")
    table = comparable(predictions[~lacking])
    assert table.groupby(["model", "split"]).size().unstack().to_numpy(float) == pytest.approx(
        np.array([[160, 80, 60], [160, 80, 60], [160, 80, np.nan]]), nan_ok=True
    )
    assert "south" not in set(table["institution"])
    pd.testing.assert_frame_equal(comparable(predictions), predictions)
    apart = predictions[(predictions["model"] == "m0") == (predictions["institution"] == "north")]
    assert len(comparable(apart)) == len(apart)
