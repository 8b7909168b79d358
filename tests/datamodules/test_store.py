import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import wfdb
from places import REPOSITORY

from datamodules import store as store_module
from datamodules.errors import InputError
from datamodules.inputs.cxr import CXR
from datamodules.recordings import LEADS, RecordingLimits
from datamodules.recordings import packed as packed_module
from datamodules.recordings.packed import Signals, packed_signal
from datamodules.store import Store, pack

LIMITS = RecordingLimits(
    min_seconds=1, max_seconds=60, min_sampling_rate_hz=50, max_sampling_rate_hz=2000
)
EXAMS = 10


def write_recordings(root: Path, n: int = EXAMS) -> pd.DataFrame:
    """WFDB records of different length, rate, gain, baseline and lead order, and their exams."""
    rng = np.random.default_rng(0)
    (root / "ecg").mkdir()
    for i in range(n):
        rate = (100, 250, 500)[i % 3]
        order = rng.permutation(len(LEADS))
        wfdb.wrsamp(
            f"e{i}",
            fs=rate,
            units=["mV"] * 12,
            sig_name=[LEADS[lead] for lead in order],
            d_signal=rng.integers(-3000, 3000, size=(rate + 10 * i, 12)),
            fmt=["16"] * 12,
            adc_gain=(rng.integers(100, 5000, size=12) / 3).tolist(),
            baseline=rng.integers(-50, 50, size=12).tolist(),
            write_dir=str(root / "ecg"),
        )
    return pd.DataFrame(
        {
            "exam_id": [f"x{i}" for i in range(n)],
            "ecg_path": [f"ecg/e{i}" for i in range(n)],
            "institution": "north",
        },
        index=pd.RangeIndex(2, n + 2, name="line"),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("written")
    return folder, write_recordings(folder)


@pytest.fixture
def root(written: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "cohort"))


@pytest.fixture
def exams(written: tuple[Path, pd.DataFrame]) -> pd.DataFrame:
    return written[1]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return tmp_path / "stores"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recordings that were read, in shards of four exams."""
    names: list[str] = []
    real = packed_module.read_recording

    def counted(path: Path) -> object:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(packed_module, "read_recording", counted)
    monkeypatch.setattr(Signals, "exams_per_shard", 4)
    return names


def packed(
    exams: pd.DataFrame,
    root: Path,
    stores: Path,
    *,
    workers: int = 1,
    on_error: str = "fail",
    limits: RecordingLimits = LIMITS,
) -> Store:
    return pack(
        Signals(limits),
        exams,
        root,
        stores,
        workers=workers,
        on_error=on_error,  # type: ignore[arg-type]
    )


def visible(stores: Path) -> list[str]:
    return sorted(path.name for path in stores.iterdir() if not path.name.startswith("."))


def tear(root: Path, name: str) -> None:
    path = root / "ecg" / f"{name}.dat"
    path.write_bytes(path.read_bytes()[:-7])


def test_packed_is_recorded_sample_for_sample(
    exams: pd.DataFrame, root: Path, stores: Path
) -> None:
    store = packed(exams, root, stores)
    assert len(store) == EXAMS
    assert store.index["exam_id"].tolist() == exams["exam_id"].tolist()
    assert len(store.skipped) == 0
    for row, path in enumerate(exams["ecg_path"]):
        digital = wfdb.rdrecord(str(root / path), physical=False)
        physical = wfdb.rdrecord(str(root / path))
        order = [digital.sig_name.index(lead) for lead in LEADS]
        samples = packed_signal(store, row)
        assert samples.dtype == np.int16
        np.testing.assert_array_equal(samples, digital.d_signal[:, order].T)
        baseline, units_per_mv = (
            store.matrix(name)[row][:, None] for name in ("baseline", "units_per_mv")
        )
        millivolts = (samples - baseline) / units_per_mv
        np.testing.assert_array_equal(millivolts, physical.p_signal[:, order].T)
        assert store.index["sampling_rate_hz"].iloc[row] == physical.fs
        assert store.index["n_samples"].iloc[row] == physical.sig_len
    assert store.index["values"].is_unique


def test_real_recordings(real_data: Path, stores: Path) -> None:
    def exams_of(institution: str, paths: list[str]) -> pd.DataFrame:
        return pd.DataFrame({"exam_id": paths, "ecg_path": paths, "institution": institution})

    table = pd.read_csv(real_data / "ptbxl" / "ptbxl_database.csv")
    ptbxl = table["filename_hr"].iloc[::20].tolist()
    store = packed(exams_of("ptbxl", ptbxl), real_data / "ptbxl", stores, on_error="skip")
    assert store.index["exam_id"].tolist() == ptbxl
    for row, path in enumerate(ptbxl):
        digital = wfdb.rdrecord(str(real_data / "ptbxl" / path), physical=False)
        np.testing.assert_array_equal(packed_signal(store, row), digital.d_signal.T)

    georgia = sorted(path.stem for path in (real_data / "cinc2021/georgia").glob("*.hea"))[:35]
    folder = real_data / "cinc2021/georgia"
    store = packed(exams_of("georgia", georgia), folder, stores, on_error="skip")
    assert len(store) + len(store.skipped) == len(georgia)
    assert len(store) > 25
    for row, name in enumerate(store.index["exam_id"]):
        values = scipy.io.loadmat(folder / f"{name}.mat")["val"]
        np.testing.assert_array_equal(packed_signal(store, row), values)


def test_first_samples(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    store = packed(exams, root, stores)
    whole = store.read(3).reshape(12, -1)
    np.testing.assert_array_equal(packed_signal(store, 3), whole)
    np.testing.assert_array_equal(packed_signal(store, 3, 50), whole[:, :50])
    with pytest.raises(ValueError, match="exam x0 has 100 samples a lead, fewer than 101"):
        packed_signal(store, 0, 101)
    with pytest.raises(ValueError, match="read-only"):
        packed_signal(store, 0)[0, 0] = 1


def test_rows_of(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    assert packed(exams, root, stores).rows_of(["x7", "unknown", "x0"]).tolist() == [7, -1, 0]


def test_a_whole_store_is_opened_without_reading(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    first = packed(exams, root, stores)
    assert len(reads) == EXAMS
    assert len(list(first.folder.glob("signals-*.i16"))) == 3
    again = packed(exams, root, stores)
    assert len(reads) == EXAMS
    assert again.digest == first.digest
    assert visible(stores) == [first.folder.name]


def test_changed_files_exams_or_limits_are_packed_anew(
    exams: pd.DataFrame, root: Path, stores: Path
) -> None:
    first = packed(exams, root, stores)
    other_limits = RecordingLimits(0.5, 60, 50, 2000)
    assert packed(exams, root, stores, limits=other_limits).folder != first.folder
    fewer = packed(exams.iloc[1:], root, stores)
    assert fewer.folder != first.folder
    assert fewer.digest != first.digest
    os.utime(root / "ecg" / "e3.dat", ns=(1, 1))
    touched = packed(exams, root, stores)
    assert touched.folder != first.folder
    assert touched.digest == first.digest


def test_digest_is_of_the_content_alone(
    exams: pd.DataFrame,
    root: Path,
    stores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = packed(exams, root, stores)
    monkeypatch.setattr(Signals, "exams_per_shard", 3)
    shutil.copytree(root / "ecg", tmp_path / "elsewhere" / "records")
    moved = exams.assign(ecg_path=exams["ecg_path"].str.replace("ecg", "records"))
    two = packed(moved, tmp_path / "elsewhere", tmp_path / "others", workers=2)
    assert len(list(two.folder.glob("signals-*.i16"))) == 4
    assert one.digest == two.digest
    for row in range(EXAMS):
        np.testing.assert_array_equal(one.read(row), two.read(row))
    header = root / "ecg" / "e0.hea"
    lines = header.read_text().splitlines()
    fields = lines[1].split()
    fields[2] = "1234.5" + fields[2][fields[2].index("(") :]
    header.write_text("\n".join([lines[0], " ".join(fields), *lines[2:]]))
    assert packed(exams, root, stores).digest != one.digest


def test_bad_recordings_are_all_named_and_nothing_is_left(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    tear(root, "e2")
    (root / "ecg" / "e8.hea").unlink()
    with pytest.raises(InputError) as error:
        packed(exams, root, stores)
    message = str(error.value)
    assert "north: 2 of 10 recordings cannot be used" in message
    assert f"north, line 4, exam x2: {root / 'ecg' / 'e2.dat'}: " in message
    assert f"north, line 10, exam x8: {root / 'ecg' / 'e8.hea'}: " in message
    assert "cohort.on_error=skip" in message
    assert len(reads) == EXAMS
    assert visible(stores) == []


def test_bad_recordings_are_skipped_and_listed(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    whole = packed(exams, root, stores)
    tear(root, "e2")
    tear(root, "e9")
    packed(exams, root, stores, on_error="skip")
    store = packed(exams, root, stores, on_error="skip")
    assert len(reads) == 2 * EXAMS
    assert store.skipped["exam_id"].tolist() == ["x2", "x9"]
    assert store.skipped["ecg_path"].tolist() == ["ecg/e2", "ecg/e9"]
    assert store.skipped["reason"].str.contains("e2.dat|e9.dat").all()
    assert store.rows_of(["x1", "x2", "x3"]).tolist() == [1, -1, 2]
    for row, exam in enumerate(store.index["exam_id"]):
        np.testing.assert_array_equal(store.read(row), whole.read(int(exam[1:])))
    with pytest.raises(InputError, match="line 4, exam x2"):
        packed(exams, root, stores)


def test_all_bad_is_refused_even_if_skipped(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    too_long = RecordingLimits(30, 60, 50, 2000)
    with pytest.raises(InputError, match="10 of 10 recordings cannot be used") as error:
        packed(exams, root, stores, on_error="skip", limits=too_long)
    assert "Every one is unusable" in str(error.value)
    assert visible(stores) == []


def test_a_killed_pack_leaves_no_store_and_is_continued(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    """SIGKILL at the seventh of ten reads, in the second of three shards."""
    script = """
import os, pickle, signal, sys
from pathlib import Path
from datamodules import store
from datamodules.recordings import packed
count, real = 0, packed.read_recording
def deadly(path):
    global count
    count += 1
    if count == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
packed.read_recording, packed.Signals.exams_per_shard = deadly, 4
exams, root, stores, limits = pickle.load(sys.stdin.buffer)
store.pack(packed.Signals(limits), exams, root, stores, workers=1, on_error="fail")
"""
    killed = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps((exams, root, stores, LIMITS)),
        capture_output=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (left,) = visible(stores)
    assert left.endswith(".partial")

    store = packed(exams, root, stores)
    assert reads == [f"e{i}" for i in range(4, EXAMS)]
    assert visible(stores) == [store.folder.name]
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "index.parquet",
        *(f"signals-0000{shard}.i16" for shard in range(3)),
        "skipped.parquet",
        "store.json",
    ]
    assert store.digest == packed(exams, root, stores.with_name("afresh")).digest


def test_an_exception_leaves_no_store(
    exams: pd.DataFrame, root: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_digest", broken)
        with pytest.raises(ZeroDivisionError):
            packed(exams, root, stores)
    assert all(name.endswith(".partial") for name in visible(stores))
    assert len(packed(exams, root, stores)) == EXAMS


def test_an_abandoned_partial_store_is_removed(
    exams: pd.DataFrame, root: Path, stores: Path
) -> None:
    for name in ("north-0123456789ab.partial", "north-2-0123456789ab.partial"):
        (stores / name).mkdir(parents=True)
    store = packed(exams, root, stores)
    assert visible(stores) == sorted(["north-2-0123456789ab.partial", store.folder.name])


@pytest.mark.parametrize("file", ["signals-00000.i16", "index.parquet", "store.json"])
@pytest.mark.parametrize("how", ["short", "missing"])
def test_a_torn_store_says_what_to_delete(
    exams: pd.DataFrame, root: Path, stores: Path, file: str, how: str
) -> None:
    path = packed(exams, root, stores).folder / file
    if how == "short":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    with pytest.raises(InputError, match="Delete this folder") as error:
        packed(exams, root, stores)
    assert str(path.parent) in str(error.value)


def test_a_disk_too_small_is_found_before_writing(
    exams: pd.DataFrame,
    root: Path,
    stores: Path,
    monkeypatch: pytest.MonkeyPatch,
    reads: list[str],
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100_000, 99_000, 1000))
    with pytest.raises(InputError, match="Make room") as error:
        packed(exams, root, stores)
    assert str(stores) in str(error.value)
    assert not reads
    assert visible(stores) == []


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "Make room"), (errno.EACCES, "Make the folder writable")]
)
def test_a_failed_write_leaves_nothing(
    exams: pd.DataFrame,
    root: Path,
    stores: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    says: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_module.pq, "write_table", full)
    with pytest.raises(InputError, match=says) as error:
        packed(exams, root, stores)
    assert f"{stores}: the store cannot be written" in str(error.value)
    assert visible(stores) == []


def test_a_file_in_the_folder_s_place(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    stores.write_text("")
    with pytest.raises(InputError, match="A file stands where the folder should be"):
        packed(exams, root, stores / "inner")


def test_two_at_once(exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]) -> None:
    """As threads, started faster than processes: the lock is the system's, on the open file."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(packed, exams, root, stores) for _ in range(2)]
        one, two = (future.result() for future in both)
    assert sorted(reads) == sorted(f"e{i}" for i in range(EXAMS))
    assert one.folder == two.folder
    assert visible(stores) == [one.folder.name]
    np.testing.assert_array_equal(one.read(4), two.read(4))


def test_a_pickled_store_is_its_folder(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    store = packed(exams, root, stores)
    store.read(0)
    copy = pickle.dumps(store)
    assert len(copy) < 500
    np.testing.assert_array_equal(pickle.loads(copy).read(5), store.read(5))


def test_worker_processes_import_nothing_heavy() -> None:
    """A worker knows what it is sent, and the readers that this calls."""
    script = (
        "import pickle, sys; pickle.load(sys.stdin.buffer);"
        "import datamodules.radiographs.dicom, datamodules.recordings.wfdb;"
        "heavy = {'torch', 'lightning', 'mlflow', 'pandera', 'albumentations', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    sent = (store_module._pack_shard, Signals(LIMITS), CXR(8).contents)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        input=pickle.dumps(sent),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == "[]"
