import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.errors import InputError
from datamodules.inputs.blood import Blood
from datamodules.inputs.cxr import CXR, CXRAugmentation
from datamodules.inputs.ecg import ECG, ECGAugmentation, millivolts
from datamodules.institution import InstitutionDataModule, Loading, _as_read
from datamodules.multisite import MultiSiteDataModule
from datamodules.recordings import LEADS, RecordingLimits
from datamodules.splits import assign_splits
from datamodules.store import pack

LIMITS = RecordingLimits(10, 60, 100, 4000)
RAW = ECG(100, 10, None, None, 2, "none", statistics_exams=10_000, limits=LIMITS)


def site(
    root: Path, name: str, exams: int, rates: tuple[int, ...] = (500,), **settings: Any
) -> Any:
    """An institution of random-walk ECGs in WFDB files; every second exam is labelled."""
    rng = np.random.default_rng(len(name) + exams)
    folder = root / name
    folder.mkdir(parents=True)
    rows = []
    for i in range(exams):
        rate = rates[i % len(rates)]
        ecg = np.cumsum(rng.normal(size=(10 * rate, 12)), axis=0) / rate**0.5 / 3
        wfdb.wrsamp(
            f"{name}{i}",
            fs=rate,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            p_signal=ecg,
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(folder),
        )
        rows.append(
            {
                "institution": name,
                "patient_id": f"{name}-p{i // 2}",
                "exam_id": f"{name}{i}",
                "ecg_path": f"{name}/{name}{i}",
                "target": float(i % 4 == 0) if i % 2 == 0 else np.nan,
            }
        )
    table = pd.DataFrame(rows)
    store = pack(RAW.contents, table, root, root / "store", workers=1, on_error="fail")
    table = table.assign(
        split=assign_splits(table["patient_id"], {"train": 0.5, "val": 0.25, "test": 0.25}, 0),
        row=store.rows_of(table["exam_id"]),
        values=store.index["values"].to_numpy(),
    )
    given = {
        "reads": "ecg",
        "input": RAW,
        "augmentation": None,
        "loading": Loading(batch_size=4, workers=0, seed=0),
        "targets": ["target"],
    }
    return InstitutionDataModule(name, table, store, **{**given, **settings})


def run(loader: Any, data: Any) -> list[dict[str, Any]]:
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_a_batch_of_several_rates_is_each_exams_own_ecg(tmp_path: Path) -> None:
    data = site(tmp_path, "mixed", 12, rates=(250, 500, 1000), targets=())
    batch = data.on_after_batch_transfer(data.dataset.__getitems__([0, 5, 7, 11]), 0)
    assert batch["ecg"].shape == (4, 12, 1000)
    assert set(batch) == {"ecg", "target", "exam", "institution"}
    assert batch["target"].shape == (4, 0)
    for place, exam in enumerate([0, 5, 7, 11]):
        record = wfdb.rdrecord(str(tmp_path / "mixed" / f"mixed{exam}"))
        own = torch.tensor(record.p_signal.T[None], dtype=torch.float32)
        alone = RAW.filter_and_resample(own, record.fs)
        torch.testing.assert_close(batch["ecg"][place], alone[0], atol=1e-4, rtol=1e-4)


def test_a_training_batch_of_one_exam_is_left_out(tmp_path: Path) -> None:
    data = site(tmp_path, "alpha", 40, targets=())
    exams = len(data.chosen("train"))
    data.loading = Loading(batch_size=exams - 1, workers=0, seed=0)
    assert [len(batch["exam"]) for batch in data.train_dataloader()] == [exams - 1]
    data.loading = Loading(batch_size=exams - 2, workers=0, seed=0)
    assert [len(batch["exam"]) for batch in data.train_dataloader()] == [exams - 2, 2]
    data.exams["split"] = "val"
    data.loading = Loading(batch_size=39, workers=0, seed=0)
    assert [len(batch["exam"]) for batch in data.val_dataloader()] == [39, 1]


def test_training_sees_labelled_training_exams_only(tmp_path: Path) -> None:
    data = site(tmp_path, "alpha", 40)
    seen = torch.cat([batch["exam"] for batch in run(data.train_dataloader(), data)])
    table = data.exams.iloc[seen.unique().numpy()]
    assert set(table["split"]) == {"train"}
    assert table["target"].notna().all()
    assert len(table) == ((data.exams["split"] == "train") & data.exams["target"].notna()).sum()
    unlabelled = site(tmp_path / "b", "alpha", 40, targets=())
    assert len(unlabelled.chosen("train")) == (unlabelled.exams["split"] == "train").sum()


def test_predictions_draw_every_other_labelled_exam_once_over_all_processes(tmp_path: Path) -> None:
    data = site(tmp_path, "alpha", 40)
    wanted = data.chosen("val", "test")
    drawn = []
    for rank in range(3):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3, training=False)
        drawn += torch.cat([b["exam"] for b in run(data.predict_dataloader(), data)]).tolist()
    assert sorted(drawn) == wanted.tolist()


def test_each_epoch_has_its_own_order_and_each_seed(tmp_path: Path) -> None:
    data = site(tmp_path, "alpha", 40, targets=())
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append(torch.cat([batch["exam"] for batch in loader]).tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_worker_processes_read_the_same(tmp_path: Path) -> None:
    data = site(tmp_path, "alpha", 16, targets=())
    here = run(data.val_dataloader(), data)
    data.loading = Loading(batch_size=4, workers=1, seed=0)
    there = run(data.val_dataloader(), data)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a["ecg"], b["ecg"], rtol=0, atol=0)


def test_augmentation_is_for_training_only(tmp_path: Path) -> None:
    noise = ECGAugmentation(False, 0.0, 1.0, 0.0)
    data = site(tmp_path, "alpha", 8, targets=(), augmentation=noise)
    read = data.dataset.__getitems__
    data.trainer = SimpleNamespace(training=False)
    plain = data.on_after_batch_transfer(read([0, 1]), 0)["ecg"]
    data.trainer = SimpleNamespace(training=True)
    noisy = data.on_after_batch_transfer(read([0, 1]), 0)["ecg"]
    # White, of a deviation up to 1 that each exam draws for itself.
    deviations = (noisy - plain).std((1, 2))
    assert (deviations > 0).all()
    assert (deviations < 1.05).all()


def test_statistics_are_those_of_the_training_exams(tmp_path: Path) -> None:
    unfitted = replace(RAW, high_pass_hz=0.5, low_pass_hz=40, normalisation="development")
    data = site(tmp_path, "alpha", 24, targets=(), input=unfitted)
    of_training = data.fit_input()
    fitted, covariance = of_training.input, of_training.statistics["lead_covariance"]
    assert isinstance(fitted, ECG)
    ecgs = []
    for exam in data.chosen("train"):
        ((rate, (_, samples, units, base)),) = data.dataset[exam]["recorded"].items()
        ecgs.append(unfitted.filter_and_resample(millivolts(samples, units, base), rate))
    flat = torch.cat(ecgs).transpose(1, 2).reshape(-1, 12).double().numpy()
    np.testing.assert_allclose(fitted.mean, flat.mean(0), atol=1e-4)
    np.testing.assert_allclose(fitted.deviation, flat.std(0), rtol=1e-3)
    np.testing.assert_allclose(covariance, np.corrcoef(flat.T), atol=2e-3)
    deviations = [ecg.double().numpy().std(ddof=1) for ecg in ecgs]
    assert of_training.ranges["ECG sampling rate (Hz)"] == (500, 500)
    assert of_training.ranges["ECG amplitude (mV)"] == pytest.approx(
        (min(deviations), max(deviations)), rel=1e-4
    )


def blood(name: str = "alpha", **settings: Any) -> InstitutionDataModule:
    table = pd.DataFrame(
        {
            "institution": name,
            "patient_id": [f"{name}-p{i}" for i in range(6)],
            "exam_id": [f"{name}{i}" for i in range(6)],
            "bnp_pg_ml": [1.0, np.e, np.e**2, np.e**3, 0.0, np.e**4],
            "age_years": [50.0, 60, 70, 80, 90, 40],
            "target": [0.0, 1, 0, 1, 0, 1],
            "split": ["train", "train", "train", "val", "test", "test"],
            "row": 0,
        }
    )
    given = {
        "reads": "bnp",
        "input": Blood("bnp_pg_ml", age=True, sex=False),
        "augmentation": None,
        "loading": Loading(batch_size=6, workers=0, seed=0),
        "targets": ["target"],
    }
    return InstitutionDataModule(name, table, None, **{**given, **settings})


def test_blood_is_standardised_by_training_exams() -> None:
    fitted = blood().fit_input()
    assert fitted.ranges == {"BNP (pg/mL)": pytest.approx((1, np.e**2))}
    data = blood(input=fitted.input)
    batch = data.on_after_batch_transfer(data.dataset.__getitems__([0, 1, 2, 3, 4]), 0)
    deviation = np.sqrt(2 / 3)  # of 0, 1, 2
    expected = np.array([[0, 50], [1, 60], [2, 70], [3, 80], [0, 90]]) - [1, 60]
    np.testing.assert_allclose(batch["bnp"], expected / [deviation, 10 * deviation])


def films(root: Path, **settings: Any) -> InstitutionDataModule:
    """Four films 40 x 20 whose left half is bright, 10 * exam + 50 dark on the right."""
    (root / "cxr").mkdir(parents=True)
    rows = []
    for i in range(4):
        pixels = np.full((40, 40), 10 * i + 50, dtype=np.uint8)
        pixels[:, :20] = 200
        Image.fromarray(pixels).save(root / "cxr" / f"{i}.png")
        rows.append(
            {
                "institution": "alpha",
                "patient_id": f"p{i}",
                "exam_id": f"e{i}",
                "cxr_path": f"cxr/{i}.png",
                "target": float(i % 2),
                "split": "train",
            }
        )
    table = pd.DataFrame(rows)
    made = CXR(32)
    store = pack(made.contents, table, root, root / "store", workers=1, on_error="fail")
    given = {
        "reads": "cxr",
        "input": made,
        "augmentation": None,
        "loading": Loading(batch_size=4, workers=0, seed=0),
        "targets": ["target"],
    }
    table = table.assign(row=store.rows_of(table["exam_id"]))
    return InstitutionDataModule("alpha", table, store, **{**given, **settings})


def test_films_are_read_standardised_and_their_size_kept(tmp_path: Path) -> None:
    data = films(tmp_path)
    batch = data.on_after_batch_transfer(data.dataset.__getitems__([3, 0]), 0)
    assert batch["cxr"].shape == (2, 1, 32, 32)
    assert batch["exam"].tolist() == [3, 0]
    left, right = batch["cxr"][:, 0, :, :16].mean((1, 2)), batch["cxr"][:, 0, :, 16:].mean((1, 2))
    torch.testing.assert_close(left, torch.ones(2), atol=1e-2, rtol=0)
    torch.testing.assert_close(right, -torch.ones(2), atol=1e-2, rtol=0)
    fitted = data.fit_input()
    assert fitted.ranges == {"image width (pixels)": (40, 40), "image height (pixels)": (40, 40)}


def test_films_are_augmented_in_training_batches_only(tmp_path: Path) -> None:
    augmentation = CXRAugmentation(rotation_degrees=0, shift=0, scale=0, brightness=0.2, contrast=0)
    data = films(tmp_path, augmentation=augmentation)
    recorded, own = data.dataset.__getitems__([0, 1, 2, 3])["recorded"]
    (batch,) = data.train_dataloader()
    order = batch["exam"].argsort()
    assert not torch.equal(batch["recorded"][0][order], recorded)
    assert torch.equal(batch["recorded"][1][order], own)
    data.exams["split"] = "val"
    (batch,) = data.val_dataloader()
    assert torch.equal(batch["recorded"][0], recorded)


def test_an_external_institution_is_tested_whole_and_never_trained_on(tmp_path: Path) -> None:
    alpha, beta = site(tmp_path, "alpha", 24), site(tmp_path, "beta", 16)
    data = MultiSiteDataModule(development=[alpha], external=[beta])
    assert set(data.exams.iloc[data.chosen("train", "val", "test")]["institution"]) == {"alpha"}
    external = data.exams.iloc[data.chosen("external")]
    assert set(external["institution"]) == {"beta"}
    assert len(external) == beta.exams["target"].notna().sum()
    for batch in run(data.predict_dataloader(), data):
        names = data.exams["institution"].to_numpy()[batch["exam"].numpy()]
        assert [list(data.stores)[code] for code in batch["institution"]] == list(names)


def test_a_patient_in_two_roles_is_refused(tmp_path: Path) -> None:
    alpha, beta = site(tmp_path, "alpha", 8), site(tmp_path, "beta", 8)
    beta.exams.loc[3, "patient_id"] = "alpha-p1"
    with pytest.raises(InputError, match=r"alpha-p1.*development alpha, external beta"):
        MultiSiteDataModule(development=[alpha], external=[beta])


def test_a_recording_under_two_patients_is_refused(tmp_path: Path) -> None:
    alpha, beta = site(tmp_path, "alpha", 8), site(tmp_path, "beta", 8)
    beta.exams.loc[3, "values"] = alpha.exams.loc[0, "values"]
    with pytest.raises(InputError, match="1 recordings that stand under two patients"):
        MultiSiteDataModule(development=[alpha], external=[beta])


def test_institutions_with_other_settings_are_refused(tmp_path: Path) -> None:
    alpha, beta = site(tmp_path, "alpha", 8), site(tmp_path, "beta", 8, targets=())
    with pytest.raises(ValueError, match="differ in targets"):
        MultiSiteDataModule(development=[alpha], external=[beta])


def test_several_labels_are_drawn_where_one_is_known(tmp_path: Path) -> None:
    data = site(tmp_path, "alpha", 40)
    exams = data.exams.assign(other=np.where(data.exams.index % 3 == 0, 1.0, np.nan))
    two = InstitutionDataModule(
        "alpha",
        exams,
        data.store,
        reads="ecg",
        input=RAW,
        augmentation=None,
        loading=data.loading,
        targets=["other", "target"],
    )
    either = exams["target"].notna() | exams["other"].notna()
    chosen = two.chosen("train", "val", "test")
    assert chosen.tolist() == np.flatnonzero(either).tolist()
    targets = two.dataset.__getitems__([1, 3])["target"]
    np.testing.assert_array_equal(targets, [[np.nan, np.nan], [1, np.nan]])
    assert two.train_targets.shape == (len(two.chosen("train")), 2)


def test_readers_are_read_by_spawned_processes(tmp_path: Path) -> None:
    """A spawned process has nothing but what was pickled: stores go as their folders' names."""
    fitted = blood(input=blood().fit_input().input)
    for data in (site(tmp_path, "alpha", 4, targets=()), films(tmp_path), fitted):
        assert len(pickle.dumps(data.dataset.read)) < 5000
        here = data.dataset.__getitems__([1, 0])
        (there,) = DataLoader(
            data.dataset,
            batch_size=2,
            sampler=[1, 0],
            num_workers=1,
            multiprocessing_context="spawn",
            collate_fn=_as_read,
        )
        ours, theirs = data.prepare(here), data.prepare(there)
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], equal_nan=True, rtol=0, atol=0)
