"""The published benchmark: a small folder in the exact layout, and the real excerpt."""

import ast
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from datamodules.errors import InputError
from datamodules.public import ptbxl
from datamodules.public.ptbxl import SETS, benchmark, labels_of
from datamodules.recordings import LEADS
from datamodules.simulation.ptbxl import write_ptbxl
from datamodules.splits import check_leakage

STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NDT,x,1.0,1.0,,STTC,STTC
NORM,x,1.0,,,NORM,NORM
IMI,x,1.0,,,MI,IMI
ASMI,x,1.0,,,MI,AMI
LVH,x,1.0,,,HYP,LVH
1AVB,x,1.0,,,CD,_AVB
PVC,x,,1.0,,,
PRC(S),x,,1.0,,,
SR,x,,,1.0,,
AFIB,x,,,1.0,,
"""
# fold, statements
EXAMS = [
    (1, "{'NORM': 100.0, 'SR': 0.0}"),
    (2, "{'IMI': 15.0, 'ASMI': 100.0, 'PVC': 0.0}"),
    (3, "{'AFIB': 0.0}"),
    (4, "{'NDT': 50.0, 'LVH': 0.0, 'SR': 0.0}"),
    (8, "{'1AVB': 100.0}"),
    (9, "{'PVC': 0.0}"),
    (10, "{'NORM': 100.0, 'AFIB': 0.0}"),
]
SUPERCLASSES = {
    "norm": [1, 0, np.nan, 0, 0, np.nan, 1],
    "mi": [0, 1, np.nan, 0, 0, np.nan, 0],
    "sttc": [0, 0, np.nan, 1, 0, np.nan, 0],
    "cd": [0, 0, np.nan, 0, 1, np.nan, 0],
    "hyp": [0, 0, np.nan, 1, 0, np.nan, 0],
}


def write(root: Path, exams: list[tuple[int, str]] = EXAMS, **columns: list[object]) -> Path:
    """The folder with records at 100 Hz; `columns` of the table are replaced."""
    root.mkdir()
    (root / "scp_statements.csv").write_text(STATEMENTS)
    numbers = list(range(1, len(exams) + 1))
    table = pd.DataFrame(
        {
            "ecg_id": numbers,
            "patient_id": [f"{100 + n}.0" for n in numbers],
            "age": "56.0",
            "sex": 1,
            "site": ["0.0", *[""] * (len(exams) - 1)],
            "device": ["CS-12   E", *[""] * (len(exams) - 1)],
            "recording_date": "1984-11-09 09:17:34",
            "scp_codes": [stated for _, stated in exams],
            "strat_fold": [fold for fold, _ in exams],
            "filename_lr": [f"records100/00000/{n:05d}_lr" for n in numbers],
            "filename_hr": [f"records500/00000/{n:05d}_hr" for n in numbers],
        }
    )
    for column, values in columns.items():
        table[column] = values
    table.to_csv(root / "ptbxl_database.csv", index=False)
    for n in numbers:
        write_record(root / f"records100/00000/{n:05d}_lr", seed=n)
    return root


def write_record(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    signals = np.random.default_rng(seed).normal(size=(1000, 12)) * 0.2
    wfdb.wrsamp(
        path.name, 100, ["mV"] * 12, list(LEADS), signals, fmt=["16"] * 12,
        adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(path.parent),
    )  # fmt: skip


def exams_of(root: Path, *asked: str) -> pd.DataFrame:
    return benchmark(root, asked, sampling_rate_hz=100).exams


def test_a_row(tmp_path: Path) -> None:
    row = exams_of(write(tmp_path / "p"), "superclasses").iloc[0].to_dict()
    assert row == {
        "institution": "ptbxl",
        "patient_id": "ptbxl-101",
        "exam_id": "ptbxl-00001",
        "ecg_path": "records100/00000/00001_lr",
        "ecg_time": pd.Timestamp("1984-11-09 09:17:34"),
        "age_years": 56.0,
        "sex": "female",
        "site": "site0",
        "device": "CS-12 E",
        "split": "train",
        "norm": 1.0,
        "mi": 0.0,
        "sttc": 0.0,
        "cd": 0.0,
        "hyp": 0.0,
    }


def test_folds_are_splits_and_what_is_absent_is_empty(tmp_path: Path) -> None:
    table = exams_of(write(tmp_path / "p"), "superclasses")
    assert table["split"].tolist() == ["train"] * 5 + ["val", "test"]
    assert table[["site", "device"]].isna().sum().tolist() == [6, 6]


def test_superclasses_whatever_the_likelihood(tmp_path: Path) -> None:
    table = exams_of(write(tmp_path / "p"), "superclasses")
    for label, expected in SUPERCLASSES.items():
        np.testing.assert_array_equal(table[label], expected, err_msg=label)


def test_a_record_is_in_a_set_with_all_its_labels_or_with_none(tmp_path: Path) -> None:
    root = write(tmp_path / "p")
    known = {
        name: exams_of(root, name)[list(labels_of(root, [name]).names)].notna() for name in SETS
    }
    for table in known.values():
        assert (table.all(axis=1) == table.any(axis=1)).all()
    counted = {name: table.any(axis=1).tolist() for name, table in known.items()}
    diagnostic = [True, True, False, True, True, False, True]
    assert counted == {
        "superclasses": diagnostic,
        "subclasses": diagnostic,
        "diagnostic": diagnostic,
        "form": [False, True, False, True, False, True, False],
        "rhythm": [True, False, True, True, False, False, True],
        "all": [True] * 7,
    }


def test_names_and_order_of_labels(tmp_path: Path) -> None:
    root = write(tmp_path / "p")
    names = {name: labels_of(root, [name]).names for name in SETS}
    assert names == {
        "superclasses": ("norm", "mi", "sttc", "cd", "hyp"),
        "subclasses": (
            "subclass_sttc", "subclass_norm", "subclass_imi", "subclass_ami", "subclass_lvh",
            "subclass__avb",
        ),
        "diagnostic": ("ndt", "norm", "imi", "asmi", "lvh", "1avb"),
        "form": ("ndt", "pvc"),
        "rhythm": ("sr", "afib"),
        "all": ("ndt", "norm", "imi", "asmi", "lvh", "1avb", "pvc", "sr", "afib"),
    }  # fmt: skip


def test_single_labels_are_known_where_their_own_sets_are(tmp_path: Path) -> None:
    root = write(tmp_path / "p")
    table = exams_of(root, "norm", "mi")
    for label in ("norm", "mi"):
        np.testing.assert_array_equal(table[label], SUPERCLASSES[label])
    table = exams_of(root, "afib", "ndt")
    np.testing.assert_array_equal(table["afib"], [0, np.nan, 1, 0, np.nan, np.nan, 1])
    # a diagnostic statement and one of form: known where there is any of either
    np.testing.assert_array_equal(table["ndt"], [0, 0, np.nan, 1, 0, 0, 0])


def test_labels_that_cannot_be_learned_are_left_out_of_a_set_and_said(tmp_path: Path) -> None:
    root = write(tmp_path / "p")
    labels = labels_of(root, ["form"])
    assert labels.left_out == {"prc(s)": "no positive exam in the training folds"}
    assert "having no positive exam in the training folds: prc(s)." in labels.notes[-1]
    everywhere = write(tmp_path / "q", [(fold, "{'PVC': 0.0, 'SR': 0.0}") for fold in range(1, 11)])
    with pytest.raises(InputError, match="no label with an exam of each class"):
        labels_of(everywhere, ["rhythm"])
    with pytest.raises(InputError, match=r"target=pvc: .* has no negative exam in the training"):
        labels_of(everywhere, ["pvc"])
    with pytest.raises(InputError, match=r"target=prc\(s\): .* has no positive exam in the train"):
        labels_of(root, ["form", "prc(s)"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("superclass", "target=superclass: PTB-XL has no such label. Did you mean superclasses"),
        ("NORM", "Did you mean norm"),
        ("lvhh", "Did you mean lvh"),
        ("subclass_imy", "Did you mean subclass_imi"),
        ("xyzzy", "no such label. There are the sets superclasses, subclasses, diagnostic"),
    ],
)
def test_unknown_labels(tmp_path: Path, asked: str, expected: str) -> None:
    root = write(tmp_path / "p")
    with pytest.raises(InputError) as caught:
        labels_of(root, [asked])
    assert expected in str(caught.value)


def test_one_recording_under_two_patients_keeps_the_split_that_is_tested_on(tmp_path: Path) -> None:
    """As PTB-XL's 145 and 463: exam 1 (train) is a copy of exam 7 (test), whose patient has
    exam 2 (train) too; the validation exam is a copy of exam 3 (train)."""
    patients = [101.0, 107.0, 103.0, 104.0, 105.0, 106.0, 107.0]
    root = write(tmp_path / "p", patient_id=patients)
    for copy, of in ((1, 7), (3, 6)):
        for kind in (".hea", ".dat"):
            name = f"records100/00000/{of:05d}_lr{kind}"
            shutil.copy(root / name, root / f"records100/00000/{copy:05d}_lr{kind}")
        header = root / f"records100/00000/{copy:05d}_lr.hea"
        header.write_text(header.read_text().replace(f"{of:05d}_lr", f"{copy:05d}_lr"))
    made = benchmark(root, ["diagnostic"], sampling_rate_hz=100)
    assert made.exams["exam_id"].tolist() == [f"ptbxl-0000{n}" for n in (4, 5, 6, 7)]
    assert "3 exams are left out (ptbxl-00001, ptbxl-00002, ptbxl-00003)" in made.notes[-1]
    check_leakage(made.exams.assign(role="development"), {})


def test_an_excerpt_is_called_one(tmp_path: Path) -> None:
    labels = labels_of(write(tmp_path / "p"), ["superclasses"])
    assert labels.excerpt.startswith("7 of PTB-XL's 21,799 records, an excerpt:")
    assert labels.excerpt in labels.notes
    for records in ptbxl.RELEASES:
        assert ptbxl.Labels(("norm",), {}, records).notes == []


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"strat_fold": [1, 2, 3, 4, 8, 9, 11]}, "line 8, column strat_fold: '11' is not a fold"),
        ({"strat_fold": [1, 2, 3, 4, 8, 9, ""]}, "column strat_fold: '' is not a whole number"),
        ({"scp_codes": ["{'XYZ': 0.0}"] * 7}, "'XYZ' does not stand in scp_statements.csv"),
    ],
)
def test_bad_rows(tmp_path: Path, columns: dict[str, list[object]], expected: str) -> None:
    root = write(tmp_path / "p", **columns)
    with pytest.raises(InputError) as caught:
        exams_of(root, "superclasses")
    assert expected in str(caught.value)


def test_what_is_missing(tmp_path: Path) -> None:
    root = write(tmp_path / "p")
    with pytest.raises(InputError, match=r"sampling_rate_hz=250: .* at 100 or 500 Hz\. Write 100"):
        benchmark(root, ["all"], sampling_rate_hz=250)
    with pytest.raises(InputError, match=r"records500: .* or set cohort.sampling_rate_hz=100"):
        benchmark(root, ["all"], sampling_rate_hz=500)
    shutil.rmtree(root / "records100")
    with pytest.raises(InputError, match=r"records100: there is no such folder\. Copy it from Ph"):
        exams_of(root, "all")
    statements = root / "scp_statements.csv"
    statements.write_text(STATEMENTS.replace(",HYP,", ",HIP,"))
    with pytest.raises(InputError, match=r"diagnostic_class: hip, hyp is not as published"):
        labels_of(root, ["all"])
    statements.write_text(STATEMENTS.replace("diagnostic_subclass", "subclass"))
    with pytest.raises(InputError, match="column diagnostic_subclass missing"):
        labels_of(root, ["all"])
    statements.unlink()
    with pytest.raises(InputError, match=r"scp_statements\.csv: .* is missing\. Copy it again"):
        labels_of(root, ["all"])
    with pytest.raises(InputError, match=r"there is no such folder\. Set cohort\.root to PTB-XL"):
        labels_of(tmp_path / "nowhere", ["all"])


def test_all_of_it_takes_seconds(tmp_path: Path) -> None:
    write_ptbxl(tmp_path, records=21_799, sampling_rates_hz=())
    begun = time.perf_counter()
    labels = labels_of(tmp_path, ["all"])
    assert time.perf_counter() - begun < 15  # 2 s on an idle core
    assert labels.excerpt == ""
    assert len(labels.names) == 71


def test_the_published_number_of_labels(real_data: Path) -> None:
    """Strodthoff et al. 2021, Table I, for scp_statements.csv as published."""
    counts = {
        name: len(labels.names) + len(labels.left_out)
        for name in SETS
        for labels in [labels_of(real_data / "ptbxl", [name])]
    }
    assert counts == {
        "superclasses": 5,
        "subclasses": 23,
        "diagnostic": 44,
        "form": 19,
        "rhythm": 12,
        "all": 71,
    }


def test_the_simulated_statements_are_the_published_ones(tmp_path: Path, real_data: Path) -> None:
    write_ptbxl(tmp_path, records=30)
    made, published = (
        pd.read_csv(folder / "scp_statements.csv", index_col=0)
        for folder in (tmp_path, real_data / "ptbxl")
    )
    columns = ["diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
    pd.testing.assert_frame_equal(made[columns], published[columns], check_names=False)
    ours = wfdb.rdheader(str(tmp_path / "records100/00000/00003_lr"))
    theirs = wfdb.rdheader(str(real_data / "ptbxl/records100/00000/00003_lr"))
    for field in ("n_sig", "fs", "sig_len", "fmt", "adc_gain", "baseline", "units", "sig_name"):
        assert getattr(ours, field) == getattr(theirs, field), field
    record = wfdb.rdrecord(str(tmp_path / "records100/00000/00003_lr"), physical=False)
    assert [total % 65536 for total in ours.checksum] == record.calc_checksum()


def test_the_excerpt_as_counted_by_pandas(real_data: Path) -> None:
    root = real_data / "ptbxl"
    raw = pd.read_csv(root / "ptbxl_database.csv")
    codes = raw["scp_codes"].map(ast.literal_eval)
    kinds = pd.read_csv(root / "scp_statements.csv", index_col=0)
    made = benchmark(root, ["superclasses"], sampling_rate_hz=500)
    superclass = kinds.loc[kinds["diagnostic"] == 1, "diagnostic_class"].str.lower()
    counts = Counter(name for stated in codes for name in {*superclass.reindex(stated).dropna()})
    assert made.exams[list(counts)].sum().astype(int).to_dict() == dict(counts)
    assert made.exams["norm"].notna().sum() == sum(
        bool({*stated} & {*superclass.index}) for stated in codes
    )
    statements = benchmark(root, ["all"], sampling_rate_hz=100)
    totals = Counter(code.lower() for stated in codes for code in stated)
    for label in statements.labels.names:
        assert statements.exams[label].sum() == totals[label]
        assert statements.exams[label].notna().all()
    split = raw["strat_fold"].map({9: "val", 10: "test"}).fillna("train")
    assert made.exams["split"].tolist() == split.tolist()
    check_leakage(made.exams.assign(role="development"), {})
