"""The fusion's discipline: what trains it comes from models that did not see the patient."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from datamodules.errors import InputError
from datamodules.inputs.blood import Blood
from datamodules.inputs.cxr import CXR
from datamodules.inputs.input import Input
from experiments.processes import Processes
from experiments.stages import fuse
from experiments.stages.exams import Site
from experiments.stages.stage import Lab, Place
from experiments.stages.train import Models, Trained
from experiments.stages.training import Compute
from experiments.tracking import Tracking
from lightning_modules.tasks.binary import Binary

FOLDS, SEED = 4, 2026
TASK = Binary(labels=("ph",))
# What an input is matters to nobody here, but for the names.
INPUTS: dict[str, Input] = {
    "ecg": CXR(64),
    "cxr": CXR(64),
    "bnp": Blood("bnp_pg_ml", age=False, sex=False),
}
SUBMODELS = ["ph_ecg", "ph_cxr", "ph_bnp"]


def site(name: str, exams: int = 80, seed: int = 0) -> Site:
    """Two exams a patient; films and blood tests of some."""
    rng = np.random.default_rng(seed)
    patients = [f"{name}-p{i // 2}" for i in range(exams)]
    split = {
        patient: rng.choice(["train", "val", "test"], p=[0.6, 0.2, 0.2]) for patient in patients
    }
    table = pd.DataFrame(
        {
            "institution": name,
            "patient_id": patients,
            "exam_id": [f"{name}-e{i}" for i in range(exams)],
            "split": [split[patient] for patient in patients],
            "target ph": (rng.random(exams) < 0.4).astype(float),
            "ecg_row": np.arange(exams),
            "cxr_row": np.where(rng.random(exams) < 0.7, 0, -1),
            "bnp_row": np.where(rng.random(exams) < 0.6, 0, -1),
            "ward_row": "a hospital's own column",
        }
    )
    return Site(name, table, INPUTS, {}, {}, TASK.labels)


def models() -> Models:
    return Models(TASK, INPUTS, {}, None, SEED, Compute())


def untracked(folder: Path) -> Place:
    tracking = Tracking("sqlite:///unused.db", "unused", "unused", enabled=False)
    return Place(Lab(folder, tracking, Processes()), folder, None)


def trained(checkpoint: Path) -> dict[str, Trained]:
    return {name: Trained(checkpoint, name.removeprefix("ph_"), "", None) for name in SUBMODELS}


def said_by(model: str, exams: pd.DataFrame, logit: float) -> pd.DataFrame:
    return exams.assign(model=model, label="ph", target=exams["target ph"], logit=logit)


def test_a_patients_outputs_come_from_models_that_did_not_see_the_patient(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    development = [site("alpha"), site("beta", seed=1)]
    seen: dict[Path, set[str]] = {}

    def train(_: Models, sites: Sequence[Site], *where: object) -> dict[str, Trained]:
        patients = {patient for of in sites for patient in of.exams["patient_id"]}
        checkpoint = Path(f"fold-{len(seen)}")
        seen[checkpoint] = patients
        return trained(checkpoint)

    def evaluate(
        name: str, checkpoint: Path, key: str, reads: str, sites: Sequence[Site], *_: object
    ) -> pd.DataFrame:
        table = pd.concat([of.exams_with(reads) for of in sites])
        assert not set(table["patient_id"]) & seen[checkpoint]
        return said_by(name, table, float(checkpoint.name[-1]))

    monkeypatch.setattr(Models, "train", train)
    monkeypatch.setattr(fuse, "evaluate", evaluate)
    table = fuse.cross_fit(models(), FOLDS, development, untracked(tmp_path))

    everyone = pd.concat([of.exams for of in development])
    training = everyone[everyone["split"] == "train"]
    assert sorted(table["exam_id"]) == sorted(training["exam_id"])
    assert set(table["fold"]) == {1, 2, 3, 4}
    assert (table.groupby("patient_id")["fold"].nunique() == 1).all()
    for submodel in SUBMODELS:
        scored = table.set_index("exam_id")[f"{submodel}: ph"]
        has = training.set_index("exam_id")[f"{submodel.removeprefix('ph_')}_row"] >= 0
        assert (scored.notna() == has.reindex(scored.index)).all()
        known = table[table[f"{submodel}: ph"].notna()]
        assert (known[f"{submodel}: ph"] == known["fold"] - 1).all()
    # Validation patients choose each fold's epoch; they are not in what the fusion learns from.
    assert all({"val", "train"} <= set(of.exams["split"]) for of in development)
    assert not set(table["patient_id"]) & set(
        everyone.loc[everyone["split"] == "val", "patient_id"]
    )


def test_folds_are_of_patients_and_independent_of_the_splits() -> None:
    exams = site("alpha", 4000).exams
    fold = fuse.folds_of(exams["patient_id"], FOLDS, SEED)
    assert (fold.groupby(exams["patient_id"]).nunique() == 1).all()
    shares = fold[exams["split"] == "train"].value_counts(normalize=True)
    assert shares.between(0.2, 0.3).all()


def test_stacking_is_scikit_learns_on_logits_and_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 3, 2)), (rng.random((200, 2)) < 0.5).astype(float)
    logits[rng.random((200, 3)) < 0.3], targets[:50, 1] = np.nan, np.nan
    found = fuse.stacking(Binary(("ph", "lvsd")), logits, targets, logits, penalty=2.0)
    features = np.hstack([np.nan_to_num(logits).reshape(200, 6), np.isnan(logits[:, :, 0])])
    for label, known in ((0, slice(None)), (1, slice(50, None))):
        model = LogisticRegression(C=0.5, max_iter=1000).fit(features[known], targets[known, label])
        np.testing.assert_allclose(found[:, label], model.decision_function(features))


def test_what_several_submodels_say_of_several_labels_in_one_table() -> None:
    task = Binary(("ph", "lvsd"))
    exams = pd.DataFrame(
        {
            "institution": "alpha",
            "split": "val",
            "patient_id": ["p1", "p2", "p3"],
            "exam_id": ["e1", "e2", "e3"],
        }
    )
    targets = np.array([[1.0, np.nan], [0.0, 1.0], [np.nan, 0.0]])
    ecg, film = np.arange(6.0).reshape(3, 2), -np.arange(6.0).reshape(3, 2)
    tested = [
        task.rows(exams, targets, ecg).assign(model="ph_ecg"),
        task.rows(exams.iloc[1:], targets[1:], film[1:]).assign(model="ph_cxr"),
    ]
    table = fuse.wide(pd.concat(tested), ["ph_cxr", "ph_ecg"], task)
    assert table["exam_id"].tolist() == ["e1", "e2", "e3"]
    np.testing.assert_array_equal(fuse.targets_in(table, task.labels), targets)
    values = fuse.said(table, ["ph_cxr", "ph_ecg"], task.labels)
    np.testing.assert_array_equal(values[:, 1], ecg)
    np.testing.assert_array_equal(values[:, 0], [[np.nan] * 2, *film[1:]])
    np.testing.assert_array_equal(fuse.first_present(values), [ecg[0], *film[1:]])


def test_no_exam_with_all_inputs_is_refused() -> None:
    alpha = site("alpha")
    alpha.exams["bnp_row"] = np.where(alpha.exams["cxr_row"] >= 0, -1, 0)
    beta = site("beta", seed=1)
    with pytest.raises(InputError, match="No labelled training exam .* all of ecg, cxr, bnp"):
        fuse.check_fusion(FOLDS, SEED, TASK, [alpha], [beta])
    beta.exams["bnp_row"] = -1
    gamma = site("gamma", seed=2)
    gamma.exams.loc[gamma.exams["split"] == "test", "cxr_row"] = -1
    with pytest.raises(InputError, match="No labelled exam to test on has all of ecg, cxr, bnp"):
        fuse.check_fusion(FOLDS, SEED, TASK, [gamma], [beta])


def test_a_fold_that_takes_a_class_away_is_refused() -> None:
    alpha = site("alpha")
    few = alpha.exams["cxr_row"] >= 0
    alpha.exams.loc[few & (alpha.exams["split"] == "train"), "target ph"] = 0.0
    with pytest.raises(InputError, match="ph, cxr without fold 1 .* lacks one of the two classes"):
        fuse.check_fusion(FOLDS, SEED, TASK, [alpha], [site("beta", seed=1)])


def test_a_fold_without_an_input_is_scored_by_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alpha = site("alpha")
    fold = fuse.folds_of(alpha.exams["patient_id"], FOLDS, SEED)
    alpha.exams.loc[(fold == 2) & (alpha.exams["split"] == "train"), "cxr_row"] = -1
    asked: list[str] = []

    def evaluate(
        name: str, checkpoint: Path, key: str, reads: str, sites: Sequence[Site], *_: object
    ) -> pd.DataFrame:
        asked.append(name)
        table = pd.concat([of.exams_with(reads) for of in sites])
        assert len(table)
        return said_by(name, table, 1.0)

    monkeypatch.setattr(Models, "train", lambda *_: trained(tmp_path))
    monkeypatch.setattr(fuse, "evaluate", evaluate)
    table = fuse.cross_fit(models(), FOLDS, [alpha], untracked(tmp_path))
    assert asked.count("ph_cxr") == 3
    assert table.loc[table["fold"] == 2, "ph_cxr: ph"].isna().all()
    assert table.loc[table["fold"] == 2, "ph_ecg: ph"].notna().all()
