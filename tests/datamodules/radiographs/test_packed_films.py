import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from places import REPOSITORY
from radiographs.films import film

from datamodules.errors import InputError
from datamodules.inputs.cxr import CXR
from datamodules.radiographs import packed as packed_module
from datamodules.radiographs import read_radiograph, to_square
from datamodules.radiographs.packed import PackedFilms
from datamodules.store import Store, pack

EXAMS = 10
SIZE = 48


def write_films(root: Path) -> pd.DataFrame:
    """DICOM films and PNG pictures of different size and content, and their exams."""
    rng = np.random.default_rng(0)
    (root / "cxr").mkdir()
    names = []
    for i in range(EXAMS):
        height, width = 40 + 7 * i, 90 - 5 * i
        grey = rng.integers(0, 256, (height, width)).astype(np.uint8)
        names.append(f"cxr/f{i}.png" if i % 3 == 0 else f"cxr/1.2.840.{i}")
        if i % 3 == 0:
            Image.fromarray(grey).save(root / names[-1])
        else:
            film(root / names[-1], 16 * grey.astype(np.uint16), PatientName="Planted^Name")
    return pd.DataFrame(
        {"exam_id": [f"x{i}" for i in range(EXAMS)], "cxr_path": names, "institution": "north"},
        index=pd.RangeIndex(2, EXAMS + 2, name="line"),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("written")
    return folder, write_films(folder)


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
    """The films that were read, in shards of four exams."""
    names: list[str] = []
    real = packed_module.read_radiograph

    def counted(path: Path) -> object:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(packed_module, "read_radiograph", counted)
    monkeypatch.setattr(PackedFilms, "exams_per_shard", 4)
    return names


def packed(
    exams: pd.DataFrame,
    root: Path,
    stores: Path,
    *,
    size: int = SIZE,
    workers: int = 1,
    on_error: str = "fail",
) -> Store:
    return pack(
        CXR(size).contents,
        exams,
        root,
        stores,
        workers=workers,
        on_error=on_error,  # type: ignore[arg-type]
    )


def visible(stores: Path) -> list[str]:
    return sorted(path.name for path in stores.iterdir() if not path.name.startswith("."))


def test_packed_is_the_film_resized(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    store = packed(exams, root, stores)
    assert store.folder.name.startswith("north-cxr-")
    assert len(store) == EXAMS
    assert store.index["exam_id"].tolist() == exams["exam_id"].tolist()
    for row, path in enumerate(exams["cxr_path"]):
        pixels = read_radiograph(root / path).pixels
        image = store.read(row)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image.reshape(SIZE, SIZE), to_square(pixels, SIZE))
        assert tuple(store.index[["height", "width"]].iloc[row]) == pixels.shape
    assert store.index["values"].is_unique
    assert store.rows_of(["x3", "none", "x0"]).tolist() == [3, -1, 0]
    with pytest.raises(ValueError, match="read-only"):
        store.read(0)[0] = 1


def test_real_films(real_data: Path, stores: Path) -> None:
    folder = real_data / "cxr"
    names = sorted(path.name for path in (folder / "nih_1024").glob("*.png"))[:6]
    films = [*(f"nih_1024/{name}" for name in names), *sorted(os.listdir(folder / "dicom"))]
    films[-2:] = [f"dicom/{name}" for name in films[-2:]]
    exams = pd.DataFrame({"exam_id": films, "cxr_path": films, "institution": "nih"})
    store = packed(exams, folder, stores, size=256)
    for row, name in enumerate(names):
        with Image.open(folder / "nih_1024" / name) as picture:
            blocks = np.asarray(picture, dtype=float).reshape(256, 4, 256, 4)
        image = store.read(row).reshape(256, 256)
        np.testing.assert_allclose(image, blocks.mean((1, 3)), atol=0.501)
    assert (store.index[["height", "width"]] == 1024).all(axis=None)
    assert store.index["values"].is_unique


def test_one_film_under_two_patients_has_one_digest(root: Path, stores: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (50, 60)).astype(np.uint8)
    grey[0, :2] = 0, 255
    Image.fromarray(grey).save(root / "a.png")
    film(root / "b.dcm", grey, bits=8, PatientID="1")
    inverted = 255 - grey
    film(root / "c.dcm", inverted, bits=8, PatientID="2", PhotometricInterpretation="MONOCHROME1")
    film(root / "d.dcm", inverted, bits=8)
    exams = pd.DataFrame(
        {
            "exam_id": list("abcd"),
            "cxr_path": ["a.png", "b.dcm", "c.dcm", "d.dcm"],
            "institution": "north",
        }
    )
    image = packed(exams, root, stores).index["values"]
    assert image[0] == image[1] == image[2] != image[3]


def test_a_whole_store_is_opened_unread(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    first = packed(exams, root, stores)
    assert len(reads) == EXAMS
    again = packed(exams, root, stores)
    assert len(reads) == EXAMS
    assert again.digest == first.digest
    other_size = packed(exams, root, stores, size=SIZE + 1)
    assert len(reads) == 2 * EXAMS
    assert other_size.folder != first.folder
    assert other_size.digest != first.digest
    assert other_size.read(0).size == (SIZE + 1) ** 2


def test_a_changed_file_is_read_again(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    first = packed(exams, root, stores)
    os.utime(root / "cxr" / "1.2.840.4", ns=(1, 1))
    touched = packed(exams, root, stores)
    assert touched.folder != first.folder
    assert touched.digest == first.digest
    # A film's name is all of it: what follows the last dot of a UID is not a suffix.
    (root / "cxr" / "1.2.840").write_text("another file")
    assert packed(exams, root, stores).folder == touched.folder


def test_the_digest_is_of_the_content_alone(
    exams: pd.DataFrame, root: Path, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = packed(exams, root, stores)
    monkeypatch.setattr(PackedFilms, "exams_per_shard", 3)
    shutil.copytree(root / "cxr", tmp_path / "elsewhere" / "films")
    moved = exams.assign(cxr_path=exams["cxr_path"].str.replace("cxr", "films"))
    two = packed(moved, tmp_path / "elsewhere", tmp_path / "others", workers=2)
    assert len(list(two.folder.glob("films-*.u8"))) == 4
    assert one.digest == two.digest
    for row in range(EXAMS):
        np.testing.assert_array_equal(one.read(row), two.read(row))
    film(root / "cxr" / "1.2.840.1")
    assert packed(exams, root, stores).digest != one.digest


def test_bad_films_are_all_named_or_skipped(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    film(root / "cxr" / "1.2.840.2", ViewPosition="LL", PatientName="Planted^Name")
    (root / "cxr" / "f9.png").unlink()
    exams = exams.assign(cxr_path=exams["cxr_path"].where(exams["exam_id"] != "x5"))
    with pytest.raises(InputError) as error:
        packed(exams, root, stores)
    message = str(error.value)
    assert "north: 3 of 10 chest X-rays cannot be used" in message
    assert f"north, line 4, exam x2: {root / 'cxr' / '1.2.840.2'}: its view is LL" in message
    assert "north, line 7, exam x5: there is no cxr_path" in message
    assert f"north, line 11, exam x9: {root / 'cxr' / 'f9.png'}: there is no such file" in message
    assert "cohort.on_error=skip" in message
    assert visible(stores) == []
    assert len(reads) == EXAMS - 1

    store = packed(exams, root, stores, on_error="skip")
    assert store.skipped.columns.tolist() == ["exam_id", "cxr_path", "reason"]
    assert store.skipped["exam_id"].tolist() == ["x2", "x5", "x9"]
    assert store.rows_of(["x1", "x2", "x3"]).tolist() == [1, -1, 2]
    stored = b"".join(path.read_bytes() for path in store.folder.iterdir())
    assert b"Planted" not in stored
    with pytest.raises(InputError, match="line 4, exam x2"):
        packed(exams, root, stores)
    with pytest.raises(InputError, match="look at the paths in the manifest, and at what"):
        packed(exams, root.parent, stores, on_error="skip")


def test_a_killed_pack_is_continued(
    exams: pd.DataFrame, root: Path, stores: Path, reads: list[str]
) -> None:
    """SIGKILL at the seventh of ten reads, in the second of three shards."""
    script = """
import os, pickle, signal, sys
from datamodules import store
from datamodules.radiographs import packed
count, real = 0, packed.read_radiograph
def deadly(path):
    global count
    count += 1
    if count == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
packed.read_radiograph, packed.PackedFilms.exams_per_shard = deadly, 4
exams, root, stores, size = pickle.load(sys.stdin.buffer)
store.pack(packed.PackedFilms(size), exams, root, stores, workers=1, on_error="fail")
"""
    killed = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps((exams, root, stores, SIZE)),
        capture_output=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (left,) = visible(stores)
    assert left.endswith(".partial")

    store = packed(exams, root, stores)
    assert reads == [Path(path).name for path in exams["cxr_path"][4:]]
    assert visible(stores) == [store.folder.name]
    assert sorted(path.name for path in store.folder.iterdir()) == [
        *(f"films-0000{shard}.u8" for shard in range(3)),
        "index.parquet",
        "skipped.parquet",
        "store.json",
    ]
    assert store.digest == packed(exams, root, stores.with_name("afresh")).digest


def test_a_torn_store_says_what_to_delete(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    path = packed(exams, root, stores).folder / "films-00000.u8"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="Delete this folder; it is packed again from the files"):
        packed(exams, root, stores)


def test_a_disk_too_small_for_the_squares(
    exams: pd.DataFrame, root: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of 48 x 48 bytes, however large the films' files are."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, EXAMS * SIZE**2 - 1))
    with pytest.raises(InputError, match="Make room"):
        packed(exams, root, stores)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, EXAMS * SIZE**2))
    assert len(packed(exams, root, stores)) == EXAMS


def test_a_pickled_store_is_its_folder(exams: pd.DataFrame, root: Path, stores: Path) -> None:
    store = packed(exams, root, stores)
    store.read(0)
    copy = pickle.dumps(store)
    assert len(copy) < 500
    np.testing.assert_array_equal(pickle.loads(copy).read(5), store.read(5))
