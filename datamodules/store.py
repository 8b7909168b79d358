"""Packed, memory-mapped signals of one institution: written once, read for ever.

A store is a folder `<institution>-<fingerprint>` with shards `signals-00000.i16` (little-endian
int16; exam after exam, lead after lead, sample after sample), `index.parquet` (where each exam
lies, and its factors to millivolts), `skipped.parquet` and, written last, `store.json`.
"""

import errno
import json
import logging
import os
import re
import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b, sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datamodules.errors import InputError, listing
from datamodules.parallel import parallel_map
from datamodules.recordings import LEADS, RecordingLimits, check_recording, read_recording

FORMAT_VERSION = 1
# 12 leads x 10 s at 500 Hz are 120 kB: a shard is 61 MB, one worker's task between two renames.
EXAMS_PER_SHARD = 512

SHARD_COLUMNS = pa.schema(
    [
        ("exam_id", pa.string()),
        ("offset", pa.int64()),
        ("n_samples", pa.int32()),
        ("sampling_rate_hz", pa.int32()),
        ("waveform", pa.string()),
        ("units_per_mv", pa.list_(pa.float64())),
        ("baseline", pa.list_(pa.int32())),
        ("ecg_path", pa.string()),
        ("reason", pa.string()),
    ]
)
INDEX_COLUMNS = ["exam_id", "shard", "offset", "n_samples", "sampling_rate_hz", "waveform"]

log = logging.getLogger(__name__)


class Store:
    """A whole store, open for reading; pickled as its folder's name, so that workers map it anew.

    index: a row an exam: exam_id, shard, offset (int16 values into the shard), n_samples (a lead),
        sampling_rate_hz, waveform (BLAKE2b-128 of the samples, hexadecimal).
    units_per_mv: float64 [n, 12]; baseline: int32 [n, 12], the digital value of 0 mV.
    digest: SHA-256 over exam ids, waveforms, sampling rates, units_per_mv and baselines, in order;
        the same wherever, and by however many workers, the recordings were packed.
    skipped: exam_id, ecg_path and reason of each recording that was left out.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError where a file of the store is missing, or not as long as it was."""
        self.folder = folder
        try:
            facts = json.loads((folder / "store.json").read_text())
            table = pq.read_table(folder / "index.parquet")
            self.skipped = pd.read_parquet(folder / "skipped.parquet")
        except (OSError, ValueError) as error:
            raise _torn(folder, str(error)) from error
        if facts["format_version"] != FORMAT_VERSION:
            raise _torn(folder, f"it has format {facts['format_version']}, not {FORMAT_VERSION}")
        self.institution: str = facts["institution"]
        self.digest: str = facts["digest"]
        self.index = table.select(INDEX_COLUMNS).to_pandas()
        self.units_per_mv: NDArray[np.float64] = _matrix(table, "units_per_mv")
        self.baseline: NDArray[np.int32] = _matrix(table, "baseline")
        self._shard = self.index["shard"].to_numpy()
        self._start = self.index["offset"].to_numpy()
        self._n_samples = self.index["n_samples"].to_numpy()
        self._maps: dict[int, NDArray[np.int16]] = {}
        self._check_shards(facts["shards"])

    def _check_shards(self, shards: int) -> None:
        samples = np.bincount(self._shard, weights=self._n_samples, minlength=shards)
        for shard, expected in enumerate(samples.astype(np.int64) * len(LEADS) * 2):
            path = self.folder / _signals(shard)
            size = path.stat().st_size if path.exists() else None
            if size != expected:
                found = "is missing" if size is None else f"has {size} bytes"
                raise _torn(self.folder, f"{path.name} {found} where {expected} were written")

    def __len__(self) -> int:
        return len(self._shard)

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.folder,)

    def read(self, row: int, n_samples: int | None = None) -> NDArray[np.int16]:
        """The exam's samples [12, n] as recorded, or each lead's first `n_samples`; read-only.

        Raises ValueError if the recording is shorter than `n_samples`.
        """
        n = int(self._n_samples[row])
        if n_samples is not None and n_samples > n:
            exam = self.index["exam_id"].iloc[row]
            raise ValueError(f"exam {exam} has {n} samples a lead, fewer than {n_samples}")
        shard = int(self._shard[row])
        if shard not in self._maps:
            mapped = np.memmap(self.folder / _signals(shard), dtype="<i2", mode="r")
            self._maps[shard] = mapped.view(np.ndarray)
        start = int(self._start[row])
        samples = self._maps[shard][start : start + len(LEADS) * n].reshape(len(LEADS), n)
        return samples[:, :n_samples]

    def rows_of(self, exam_ids: Sequence[str] | pd.Series) -> NDArray[np.int64]:
        """The row of each exam, -1 for one that is not in the store."""
        rows = pd.Index(self.index["exam_id"]).get_indexer(pd.Index(exam_ids))
        return rows.astype(np.int64)


def pack(
    exams: pd.DataFrame,
    root: Path,
    store_root: Path,
    *,
    limits: RecordingLimits,
    workers: int,
    on_error: Literal["fail", "skip"],
) -> Store:
    """The store of one institution's `exams` (exam_id, ecg_path, institution), packed if need be.

    A whole store of the same exams, unchanged files and limits is opened without reading a
    recording; one that was interrupted is continued. The index of `exams` names rows in messages.
    Every recording is read before a bad one is reported: with `on_error="fail"` all bad ones make
    one InputError and nothing is kept, with "skip" they are left out and listed in `skipped`.
    Raises InputError also where all are bad, or the store cannot be written.
    """
    (institution,) = exams["institution"].unique()
    stamps, n_bytes = _file_stamps(root, exams["ecg_path"])
    fingerprint = _fingerprint(institution, exams, stamps, limits)
    folder = store_root / f"{institution}-{fingerprint}"
    if not folder.exists():
        with _mendable(store_root):
            store_root.mkdir(parents=True, exist_ok=True)
            with _lock(store_root / f".{institution}.lock", institution):
                if not folder.exists():
                    _build(folder, exams, root, n_bytes, limits, workers, on_error)
    store = Store(folder)
    if on_error == "fail" and len(store.skipped):
        raise _unusable(exams, store.skipped)
    return store


def _build(
    folder: Path,
    exams: pd.DataFrame,
    root: Path,
    n_bytes: int,
    limits: RecordingLimits,
    workers: int,
    on_error: str,
) -> None:
    """Write `folder`: beside it as `.partial`, which a later call continues, then renamed."""
    institution = exams["institution"].iloc[0]
    partial = folder.with_name(f"{folder.name}.partial")
    # Under the institution's lock, another partial of it is one that nobody will continue.
    abandoned = re.compile(re.escape(institution) + r"-[0-9a-f]{12}\.partial")
    for other in folder.parent.iterdir():
        if abandoned.fullmatch(other.name) and other != partial:
            shutil.rmtree(other)
    partial.mkdir(exist_ok=True)
    try:
        ids, paths = exams["exam_id"].tolist(), exams["ecg_path"].tolist()
        starts = range(0, len(exams), EXAMS_PER_SHARD)
        jobs = []
        for shard, start in enumerate(starts):
            chosen = slice(start, start + EXAMS_PER_SHARD)
            if not _is_packed(partial, shard, ids[chosen]):
                jobs.append((partial, shard, ids[chosen], root, paths[chosen], limits))
        _check_space(partial, n_bytes, institution)
        for _ in parallel_map(_pack_shard, jobs, workers, description=f"packing {institution}"):
            pass
        _finish(folder, partial, len(starts), exams, on_error)
    except (InputError, OSError):
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _pack_shard(job: tuple[Path, int, list[str], Path, list[str], RecordingLimits]) -> None:
    """Write a shard's signals, then its table, which says that the shard is whole."""
    partial, shard, exam_ids, root, paths, limits = job
    rows: list[dict[str, Any]] = []
    offset = 0
    with _renamed_when_whole(partial / _signals(shard)) as file:
        for exam_id, path in zip(exam_ids, paths, strict=True):
            row: dict[str, Any] = {"exam_id": exam_id, "ecg_path": path}
            rows.append(row)
            try:
                if pd.isna(path):
                    raise InputError("there is no ecg_path. Leave the exam out")
                recording = read_recording(root / path)
                check_recording(recording, root / path, limits)
            except InputError as error:
                row["reason"] = str(error)
                continue
            except OSError as error:
                row["reason"] = f"{root / path}: cannot be read ({error.strerror})"
                continue
            samples = np.ascontiguousarray(recording.samples, dtype="<i2")
            row |= {
                "offset": offset,
                "n_samples": samples.shape[1],
                "sampling_rate_hz": recording.sampling_rate_hz,
                "waveform": blake2b(samples.data, digest_size=16).hexdigest(),
                "units_per_mv": recording.units_per_mv,
                "baseline": recording.baseline,
            }
            file.write(samples)
            offset += samples.size
    with _renamed_when_whole(partial / _shard_table(shard)) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=SHARD_COLUMNS), file)


def _is_packed(partial: Path, shard: int, exam_ids: list[str]) -> bool:
    try:
        table = pq.read_table(partial / _shard_table(shard), columns=["exam_id", "n_samples"])
        size = (partial / _signals(shard)).stat().st_size
    except (OSError, pa.ArrowInvalid):
        return False
    values = np.nansum(table["n_samples"].to_numpy()) * len(LEADS)
    return size == 2 * values and table["exam_id"].to_pylist() == exam_ids


def _finish(folder: Path, partial: Path, shards: int, exams: pd.DataFrame, on_error: str) -> None:
    """Join the shards' tables into the index, and rename the folder if it is to be kept."""
    tables = []
    for shard in range(shards):
        table = pq.read_table(partial / _shard_table(shard))
        number = pa.array(np.full(len(table), shard, dtype=np.int32))
        tables.append(table.append_column("shard", number))
    table = pa.concat_tables(tables)
    is_bad = table["reason"].is_valid()
    skipped = table.filter(is_bad).select(["exam_id", "ecg_path", "reason"])
    table = table.filter(table["reason"].is_null()).select(
        [*INDEX_COLUMNS, "units_per_mv", "baseline"]
    )
    if len(skipped) and (on_error == "fail" or not len(table)):
        raise _unusable(exams, skipped.to_pandas())
    for name, contents in (("index.parquet", table), ("skipped.parquet", skipped)):
        with _renamed_when_whole(partial / name) as file:
            pq.write_table(contents, file)
    facts = {
        "format_version": FORMAT_VERSION,
        "institution": exams["institution"].iloc[0],
        "exams": len(table),
        "shards": shards,
        "digest": _digest(table),
    }
    with _renamed_when_whole(partial / "store.json") as file:
        file.write(json.dumps(facts, indent=2).encode())
    for needless in [*partial.glob("shard-*.parquet"), *partial.glob("*.tmp")]:
        needless.unlink()
    _sync_folder(partial)
    partial.rename(folder)
    _sync_folder(folder.parent)


def _unusable(exams: pd.DataFrame, skipped: pd.DataFrame) -> InputError:
    institution = exams["institution"].iloc[0]
    labels = dict(zip(exams["exam_id"], exams.index, strict=True))
    row = exams.index.name or "row"
    problems = [
        f"{institution}, {row} {labels[exam_id]}, exam {exam_id}: {reason}"
        for exam_id, reason in zip(skipped["exam_id"], skipped["reason"], strict=True)
    ]
    remedy = (
        "Every one is unusable: look at the paths in the manifest, and at the limits on length "
        "and sampling rate."
        if len(skipped) == len(exams)
        else "Mend them, or set cohort.on_error=skip to leave them out: a run counts and lists "
        "what it left out."
    )
    return InputError(
        f"{institution}: {len(skipped)} of {len(exams)} recordings cannot be used:\n"
        f"{listing(problems)}\n{remedy}"
    )


def _torn(folder: Path, reason: str) -> InputError:
    return InputError(
        f"{folder}: the store is damaged: {reason}. Delete this folder; it is packed again from "
        "the recordings."
    )


def _file_stamps(root: Path, paths: pd.Series) -> tuple["array[int]", int]:
    """A number for each exam that changes with its files, and the bytes of all these files.

    An exam's files are those beside `ecg_path` with its name or stem. Names, sizes and times of
    change are hashed, and the hashes added up, so that the order of a listing does not matter.
    """
    stamps = array("Q", bytes(8 * len(paths)))
    n_bytes = 0
    rows_in: dict[str, dict[str, list[int]]] = {}
    for row, path in enumerate(paths.fillna("").tolist()):
        pure = PurePosixPath(path)
        for name in {pure.name, pure.stem}:
            rows_in.setdefault(str(pure.parent), {}).setdefault(name, []).append(row)
    for folder, rows_of in rows_in.items():
        try:
            entries = os.scandir(root / folder)
        except OSError:
            continue  # The reader says of each recording that it is not there.
        with entries:
            for entry in entries:
                rows = {
                    *rows_of.get(entry.name, ()),
                    *rows_of.get(os.path.splitext(entry.name)[0], ()),
                }
                if not rows or not entry.is_file():
                    continue
                facts = entry.stat()
                text = f"{entry.name}:{facts.st_size}:{facts.st_mtime_ns}"
                stamp = blake2b(text.encode(), digest_size=8).digest()
                for row in rows:
                    stamps[row] = (stamps[row] + int.from_bytes(stamp, "little")) % 2**64
                n_bytes += facts.st_size
    return stamps, n_bytes


def _fingerprint(
    institution: str, exams: pd.DataFrame, stamps: Sequence[int], limits: RecordingLimits
) -> str:
    whole = sha256(json.dumps([FORMAT_VERSION, institution, asdict(limits)]).encode())
    for exam_id, path in zip(exams["exam_id"], exams["ecg_path"], strict=True):
        whole.update(json.dumps([exam_id, path]).encode())
    for stamp in stamps:
        whole.update(stamp.to_bytes(8, "little"))
    return whole.hexdigest()[:12]


def _digest(table: pa.Table) -> str:
    whole = sha256()
    for column in ("exam_id", "waveform"):
        for text in table[column].to_pylist():
            whole.update(f"{len(text)}:{text}".encode())
    whole.update(table["sampling_rate_hz"].to_numpy().astype("<i4").tobytes())
    whole.update(_matrix(table, "units_per_mv").astype("<f8").tobytes())
    whole.update(_matrix(table, "baseline").astype("<i4").tobytes())
    return whole.hexdigest()


def _matrix(table: pa.Table, column: str) -> NDArray[Any]:
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), len(LEADS))


def _signals(shard: int) -> str:
    return f"signals-{shard:05d}.i16"


def _shard_table(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def _check_space(partial: Path, n_bytes: int, institution: str) -> None:
    """Refuse to start where the disk cannot hold what the recordings' files add up to."""
    written = sum(file.stat().st_size for file in partial.iterdir())
    free = shutil.disk_usage(partial).free
    if n_bytes - written > free:
        raise InputError(
            f"{partial.parent}: the store of {institution} takes about {n_bytes / 1e9:.1f} GB, "
            f"{written / 1e9:.1f} GB of which are written, and the disk has {free / 1e9:.1f} GB "
            "left. Make room, or put the stores on another disk."
        )


@contextmanager
def _mendable(store_root: Path) -> Iterator[None]:
    """Turn what a person can mend on their disk into an InputError."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "Make room, or put the stores on another disk",
            errno.EDQUOT: "Make room within your quota, or put the stores on another disk",
            errno.EACCES: "Make the folder writable, or put the stores elsewhere",
            errno.EPERM: "Make the folder writable, or put the stores elsewhere",
            errno.EROFS: "Put the stores on a disk that can be written to",
            errno.ENOTDIR: "A file stands where the folder should be: remove it",
            errno.EEXIST: "A file stands where the folder should be: remove it",
        }.get(error.errno or 0)
        if remedy is None:
            raise
        raise InputError(
            f"{store_root}: the store cannot be written ({error.strerror}). {remedy}. Nothing "
            "half-written was left."
        ) from error


@contextmanager
def _lock(path: Path, institution: str) -> Iterator[None]:
    """One process at a time packs an institution; the system frees a dead process's lock."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.warning("another process is packing %s: waiting for it", institution)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _renamed_when_whole(path: Path) -> Iterator[Any]:
    """A file to write that stands at `path` once all of it is on the disk."""
    # A process's own name: a killed pack's worker may live on, beside the pack that continues it.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
