"""What a study may ask, through the real command: several labels, numbers, classes and steps.

Of blood tests, whose models are linear, so that scikit-learn knows what must come out.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Launch, launch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import mean_absolute_error, roc_auc_score

from experiments.run import main

HOSPITALS = {"general": 400, "hills": 150, "coast": 120}
BLOOD = (
    "experiment=ph",
    "~models.ph_ecg",
    "~models.ph_cxr",
    "fusion=null",
    "cohort=manifests",
    "cohort.development=[general]",
    "bnp.age=true",
    "statistics.resamples=50",
    "statistics.report_resamples=20",
)


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """A number, two steps of it, a label of its own that is known of four fifths and that nobody at
    coast has, three classes, and mistakes."""
    made = {}
    for seed, (name, n) in enumerate(HOSPITALS.items()):
        rng = np.random.default_rng(seed)
        severity, age = rng.standard_normal(n), rng.uniform(40, 90, n).round()
        pressure = 30 + 8 * severity + 0.1 * (age - 65) + 4 * rng.standard_normal(n)
        other = (rng.random(n) < expit(1.5 * severity - 1)).astype(float)
        other = np.zeros(n) if name == "coast" else other
        other[rng.random(n) < 0.2] = np.nan
        kind = np.digitize(severity + 0.7 * rng.standard_normal(n), [-0.5, 0.5])
        made[name] = pd.DataFrame(
            {
                "patient_id": [f"{name}-{i}" for i in range(n)],
                "exam_id": [f"{name}-e{i}" for i in range(n)],
                "bnp_pg_ml": np.exp(4 + severity).round(2),
                "age_years": age,
                "pressure": pressure.round(2),
                "raised": (pressure > 32).astype(int),
                "high": (pressure > 40).astype(int),
                "other": other,
                **{f"kind_{k}": (kind == k).astype(int) for k in range(3)},
                "never": 0,
                "constant": 7.5,
                "words": np.where(np.arange(n) == 3, "perhaps", "1"),
                "elsewhere": pressure / (1000 if name == "hills" else 1),
            }
        )
    return made


@pytest.fixture(scope="module")
def root(tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("targets") / "cohort"
    folder.mkdir()
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def asked(root: Path) -> Callable[..., Launch]:
    def run(*overrides: str) -> Launch:
        done = launch(root.parent, *BLOOD, f"cohort.root={root}", *overrides)
        assert done.status == 0, done.errors
        return done

    return run


def features(table: pd.DataFrame) -> np.ndarray:
    return np.column_stack([np.log(table["bnp_pg_ml"]), table["age_years"]])


def split_of(tables: dict[str, pd.DataFrame], predictions: pd.DataFrame) -> np.ndarray:
    """The general hospital's training exams: those without a prediction."""
    return (~tables["general"]["exam_id"].isin(predictions["exam_id"])).to_numpy()


def test_several_labels_are_scikit_learns_regressions_and_their_mean_is_told(
    asked: Callable[..., Launch], tables: dict[str, pd.DataFrame]
) -> None:
    done = asked("target=[raised,other]")
    table = done.predictions
    general = tables["general"]
    trained = split_of(tables, table)
    scale = features(general[trained])
    mean, deviation = scale.mean(axis=0), scale.std(axis=0)
    aurocs: dict[tuple[str, str], float] = {}
    for label in ("raised", "other"):
        learned = general[trained & general[label].notna().to_numpy()]
        model = LogisticRegression(tol=1e-10, max_iter=1000).fit(
            (features(learned) - mean) / deviation, learned[label]
        )
        for name in ("hills", "coast"):
            known = tables[name].dropna(subset=label)
            expected = model.predict_proba((features(known) - mean) / deviation)[:, 1]
            mine = table[(table["label"] == label) & (table["institution"] == name)]
            assert mine["exam_id"].tolist() == known["exam_id"].tolist()
            np.testing.assert_allclose(mine["probability"], expected, atol=2e-4)
            if known[label].nunique() == 2:
                aurocs[label, name] = roc_auc_score(known[label], mine["probability"])
    summary = {(row["label"], row["institution"]): row for row in done.summary}
    macro = summary["macro average", "hills"]
    of_hills = [aurocs["raised", "hills"], aurocs["other", "hills"]]
    assert macro["auroc"] == pytest.approx(np.mean(of_hills), abs=1e-3)
    assert macro["auroc"] > 0.75
    # Nobody at coast has the other: it is left out there, and named.
    assert summary["macro average", "coast"]["auroc"] == pytest.approx(
        aurocs["raised", "coast"], abs=1e-3
    )
    assert summary["other", "coast"]["auroc"] is None
    html = done.artifact("report.html").read_text()
    assert "not estimable" in html
    metrics = done.client.get_run(done.run).data.metrics
    assert metrics["test/macro_auroc/hills/ph_bnp"] == pytest.approx(macro["auroc"])


def test_a_number_is_scikit_learns_ridge_and_judged_as_one(
    asked: Callable[..., Launch], tables: dict[str, pd.DataFrame]
) -> None:
    done = asked(
        "target=pressure", "task=regression", "statistics.truth_thresholds={pressure: [40]}"
    )
    table = done.predictions
    general = tables["general"]
    learned = general[split_of(tables, table)]
    scale = features(learned)
    mean, deviation = scale.mean(axis=0), scale.std(axis=0)
    spread = learned["pressure"].std(ddof=0)
    model = Ridge(alpha=1.0).fit((scale - mean) / deviation, learned["pressure"] / spread)
    hills = tables["hills"]
    mine = table[table["institution"] == "hills"]
    expected = model.predict((features(hills) - mean) / deviation) * spread
    np.testing.assert_allclose(mine["estimate"], expected, atol=1e-3)
    (row,) = (r for r in done.summary if r["institution"] == "hills")
    error = mean_absolute_error(hills["pressure"], expected)
    assert row["mae"] == pytest.approx(error, abs=1e-3)
    at_chance = mean_absolute_error(hills["pressure"], [learned["pressure"].mean()] * len(hills))
    assert error < 0.7 * at_chance


def test_classes_are_softmax_regression(
    asked: Callable[..., Launch], tables: dict[str, pd.DataFrame]
) -> None:
    done = asked("target=[kind_0,kind_1,kind_2]", "task=multiclass")
    table = done.predictions
    general = tables["general"]
    learned = general[split_of(tables, table)]
    scale = features(learned)
    mean, deviation = scale.mean(axis=0), scale.std(axis=0)
    classes = ["kind_0", "kind_1", "kind_2"]
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(
        (scale - mean) / deviation, learned[classes].to_numpy().argmax(axis=1)
    )
    expected = model.predict_proba((features(tables["coast"]) - mean) / deviation)
    wide = table[table["institution"] == "coast"].pivot(
        index="exam_id", columns="label", values="probability"
    )
    got = wide.loc[tables["coast"]["exam_id"], classes].to_numpy()
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_steps_never_contradict_each_other(asked: Callable[..., Launch]) -> None:
    table = asked("target=[raised,high]", "task=ordinal").predictions
    wide = table.pivot(index="exam_id", columns="label", values="probability")
    assert (wide["high"] <= wide["raised"]).all()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["target=words"], "line 5, column words: 'perhaps' is not 0 or 1"),
        (["target=words", "task=regression"], "line 5, column words: 'perhaps' is not a number"),
        (["target=pressure"], "For how much pressure is, ask for task=regression"),
        (["target=constant", "task=regression"], "have one value, 7.5"),
        (["target=elsewhere", "task=regression"], "are they in one unit?"),
        (["target=[raised,never]"], "never: the 400 development exams hold only 0"),
        (["target=ph", "task=regression"], "task=regression asks for a number"),
        (["target=[raised,raised]"], "raised is named twice"),
        (["target=[raised,nothing]"], "general has no column 'nothing'"),
        (["target=[]"], "target"),
        (
            ["target=[high,raised]", "task=ordinal"],
            "a step is reached and the one before it is not",
        ),
        (["target=[raised,high]", "task=multiclass"], "exactly one of raised, high must be 1"),
        (["target=raised", "task=multiclass"], "classes are two or more"),
        (["target=raised", "task.positive_weights=[2.0]"], "has no setting positive_weights"),
    ],
)
def test_a_wrong_target_is_told_at_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], says: str
) -> None:
    places = [f"tracking.uri=sqlite:///{tmp_path}/m.db", f"cache={tmp_path / 'cache'}"]
    places += [f"tracking.artifacts={tmp_path / 'artifacts'}", f"cohort.root={root}"]
    assert main([*BLOOD, *places, *overrides]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert says in told
    assert "Traceback" not in told
    assert not list(tmp_path.glob("cache/stages/*"))
