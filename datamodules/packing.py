"""What packed stores share: a folder of shards, written once by several processes, read for ever.

A store is a folder `<institution><suffix>-<fingerprint>` with its shards (exam after exam),
`index.parquet` (where each exam lies), `skipped.parquet` and, written last, `store.json`. It is
whole, or it is not there.
"""

import errno
import json
import logging
import os
import re
import shutil
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b, sha256
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, TypeVar

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datamodules.errors import InputError, listing
from datamodules.parallel import parallel_map

log = logging.getLogger(__name__)


class Contents(ABC):
    """What one kind of store holds, and how it comes by it; goes to worker processes, pickled.

    files: what messages call the packed files. path_column: the exams' column that names them.
    companions: whether files beside one, of its name or stem, belong to it. suffix: of the
    institution in the store's name. shard_name, dtype: of the shards. columns: what `read` says of
    an exam, and the index holds. advice: what to look at where every file is unusable.
    """

    format_version: ClassVar[int]
    files: ClassVar[str]
    path_column: ClassVar[str]
    companions: ClassVar[bool]
    suffix: ClassVar[str]
    shard_name: ClassVar[str]
    dtype: ClassVar[str]
    columns: ClassVar[tuple[tuple[str, pa.DataType], ...]]
    advice: ClassVar[str]

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that the packed values depend on, beside the files."""

    @abstractmethod
    def read(self, path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
        """A file's values, contiguous and of `dtype`, and its `columns`; InputError if unusable."""

    @abstractmethod
    def n_bytes(self, exams: int, in_files: int) -> int:
        """About how large a store of so many exams is, whose files have `in_files` bytes."""

    @staticmethod
    @abstractmethod
    def digest(table: pa.Table) -> str:
        """SHA-256 of what the exams of an index hold; the same wherever they were packed."""


class PackedStore(ABC):
    """A whole store, open for reading; pickled as its folder's name, so that workers map it anew.

    index: a row an exam: exam_id, shard, offset (values into the shard), and what its kind adds.
    skipped: exam_id, path and reason of each file that was left out.
    """

    contents: ClassVar[type[Contents]]
    index: pd.DataFrame

    def __init__(self, folder: Path) -> None:
        """Raises InputError where a file of the store is missing, or not as long as it was."""
        self.folder = folder
        try:
            facts = json.loads((folder / "store.json").read_text())
            table = pq.read_table(folder / "index.parquet")
            self.skipped = pd.read_parquet(folder / "skipped.parquet")
        except (OSError, ValueError) as error:
            raise self._torn(str(error)) from error
        expected = self.contents.format_version
        if facts["format_version"] != expected:
            raise self._torn(f"it has format {facts['format_version']}, not {expected}")
        self.institution: str = facts["institution"]
        self.digest: str = facts["digest"]
        self._shard = table["shard"].to_numpy()
        self._start = table["offset"].to_numpy()
        self._maps: dict[int, NDArray[Any]] = {}
        self._check_shards(facts["shards"], self._open(table, facts))

    @abstractmethod
    def _open(self, table: pa.Table, facts: dict[str, Any]) -> NDArray[np.int64]:
        """Take the index's columns; returns the number of values of each exam [n]."""

    def _check_shards(self, shards: int, n_values: NDArray[np.int64]) -> None:
        itemsize = np.dtype(self.contents.dtype).itemsize
        values = np.bincount(self._shard, weights=n_values, minlength=shards)
        for shard, expected in enumerate(values.astype(np.int64) * itemsize):
            path = self.folder / self.contents.shard_name.format(shard)
            size = path.stat().st_size if path.exists() else None
            if size != expected:
                found = "is missing" if size is None else f"has {size} bytes"
                raise self._torn(f"{path.name} {found} where {expected} were written")

    def _torn(self, reason: str) -> InputError:
        return InputError(
            f"{self.folder}: the store is damaged: {reason}. Delete this folder; it is packed "
            f"again from the {self.contents.files}."
        )

    def __len__(self) -> int:
        return len(self._shard)

    def __reduce__(self) -> tuple[type["PackedStore"], tuple[Path]]:
        return type(self), (self.folder,)

    def _values(self, row: int, n: int) -> NDArray[Any]:
        """The exam's first `n` values, read-only."""
        shard = int(self._shard[row])
        if shard not in self._maps:
            path = self.folder / self.contents.shard_name.format(shard)
            mapped = np.memmap(path, dtype=self.contents.dtype, mode="r")
            self._maps[shard] = mapped.view(np.ndarray)
        start = int(self._start[row])
        return self._maps[shard][start : start + n]

    def rows_of(self, exam_ids: Sequence[str] | pd.Series) -> NDArray[np.int64]:
        """The row of each exam, -1 for one that is not in the store."""
        rows = pd.Index(self.index["exam_id"]).get_indexer(pd.Index(exam_ids))
        return rows.astype(np.int64)


AnyStore = TypeVar("AnyStore", bound=PackedStore)


def pack_store(
    kind: type[AnyStore],
    contents: Contents,
    exams: pd.DataFrame,
    root: Path,
    store_root: Path,
    *,
    exams_per_shard: int,
    workers: int,
    on_error: Literal["fail", "skip"],
) -> AnyStore:
    """The store of one institution's `exams` (exam_id, path, institution), packed if need be.

    A whole store of the same exams, unchanged files and settings is opened without reading a file;
    one that was interrupted is continued. The index of `exams` names rows in messages. Every file
    is read before a bad one is reported: with `on_error="fail"` all bad ones make one InputError
    and nothing is kept, with "skip" they are left out and listed in `skipped`. Raises InputError
    also where all are bad, or the store cannot be written.
    """
    (institution,) = exams["institution"].unique()
    paths = exams[contents.path_column]
    stamps, in_files = _file_stamps(root, paths, companions=contents.companions)
    fingerprint = _fingerprint(institution, exams, stamps, contents)
    name = institution + contents.suffix
    folder = store_root / f"{name}-{fingerprint}"
    if not folder.exists():
        with _mendable(store_root):
            store_root.mkdir(parents=True, exist_ok=True)
            with _lock(store_root / f".{name}.lock", institution):
                if not folder.exists():
                    n_bytes = contents.n_bytes(len(exams), in_files)
                    _build(
                        folder, contents, exams, root, n_bytes, exams_per_shard, workers, on_error
                    )
    store = kind(folder)
    if on_error == "fail" and len(store.skipped):
        raise _unusable(contents, exams, store.skipped)
    return store


def _build(
    folder: Path,
    contents: Contents,
    exams: pd.DataFrame,
    root: Path,
    n_bytes: int,
    exams_per_shard: int,
    workers: int,
    on_error: str,
) -> None:
    """Write `folder`: beside it as `.partial`, which a later call continues, then renamed."""
    institution = exams["institution"].iloc[0]
    partial = folder.with_name(f"{folder.name}.partial")
    # Under the institution's lock, another partial of it is one that nobody will continue.
    abandoned = re.compile(re.escape(institution + contents.suffix) + r"-[0-9a-f]{12}\.partial")
    for other in folder.parent.iterdir():
        if abandoned.fullmatch(other.name) and other != partial:
            shutil.rmtree(other)
    partial.mkdir(exist_ok=True)
    try:
        ids, paths = exams["exam_id"].tolist(), exams[contents.path_column].tolist()
        starts = range(0, len(exams), exams_per_shard)
        jobs = []
        for shard, start in enumerate(starts):
            chosen = slice(start, start + exams_per_shard)
            if not _is_packed(contents, partial, shard, ids[chosen]):
                jobs.append((contents, partial, shard, ids[chosen], root, paths[chosen]))
        _check_space(partial, n_bytes, institution)
        description = f"packing {institution}'s {contents.files}"
        for _ in parallel_map(_pack_shard, jobs, workers, description=description):
            pass
        _finish(folder, contents, partial, len(starts), exams, on_error)
    except (InputError, OSError):
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _pack_shard(job: tuple[Contents, Path, int, list[str], Path, list[str]]) -> None:
    """Write a shard's values, then its table, which says that the shard is whole."""
    contents, partial, shard, exam_ids, root, paths = job
    rows: list[dict[str, Any]] = []
    offset = 0
    with _renamed_when_whole(partial / contents.shard_name.format(shard)) as file:
        for exam_id, path in zip(exam_ids, paths, strict=True):
            is_absent = pd.isna(path)
            row: dict[str, Any] = {"exam_id": exam_id}
            row[contents.path_column] = None if is_absent else path
            rows.append(row)
            try:
                if is_absent:
                    raise InputError(f"there is no {contents.path_column}. Leave the exam out")
                values, about = contents.read(root / path)
            except InputError as error:
                row["reason"] = str(error)
                continue
            except OSError as error:
                row["reason"] = f"{root / path}: cannot be read ({error.strerror})"
                continue
            row |= {"offset": offset, "n_values": values.size, **about}
            file.write(values)
            offset += values.size
    schema = pa.schema(
        [
            ("exam_id", pa.string()),
            (contents.path_column, pa.string()),
            ("reason", pa.string()),
            ("offset", pa.int64()),
            ("n_values", pa.int64()),
            *contents.columns,
        ]
    )
    with _renamed_when_whole(partial / _shard_table(shard)) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def _is_packed(contents: Contents, partial: Path, shard: int, exam_ids: list[str]) -> bool:
    try:
        table = pq.read_table(partial / _shard_table(shard), columns=["exam_id", "n_values"])
        size = (partial / contents.shard_name.format(shard)).stat().st_size
    except (OSError, pa.ArrowInvalid):
        return False
    n_bytes = np.nansum(table["n_values"].to_numpy()) * np.dtype(contents.dtype).itemsize
    return size == n_bytes and table["exam_id"].to_pylist() == exam_ids


def _finish(
    folder: Path,
    contents: Contents,
    partial: Path,
    shards: int,
    exams: pd.DataFrame,
    on_error: str,
) -> None:
    """Join the shards' tables into the index, and rename the folder if it is to be kept."""
    tables = []
    for shard in range(shards):
        table = pq.read_table(partial / _shard_table(shard))
        number = pa.array(np.full(len(table), shard, dtype=np.int32))
        tables.append(table.append_column("shard", number))
    table = pa.concat_tables(tables)
    is_bad = table["reason"].is_valid()
    skipped = table.filter(is_bad).select(["exam_id", contents.path_column, "reason"])
    table = table.filter(table["reason"].is_null()).select(
        ["exam_id", "shard", "offset", *(name for name, _ in contents.columns)]
    )
    if len(skipped) and (on_error == "fail" or not len(table)):
        raise _unusable(contents, exams, skipped.to_pandas())
    for name, rows in (("index.parquet", table), ("skipped.parquet", skipped)):
        with _renamed_when_whole(partial / name) as file:
            pq.write_table(rows, file)
    facts = {
        "format_version": contents.format_version,
        "institution": exams["institution"].iloc[0],
        "exams": len(table),
        "shards": shards,
        "digest": contents.digest(table),
        "settings": contents.settings,
    }
    with _renamed_when_whole(partial / "store.json") as file:
        file.write(json.dumps(facts, indent=2).encode())
    for needless in [*partial.glob("shard-*.parquet"), *partial.glob("*.tmp")]:
        needless.unlink()
    _sync_folder(partial)
    partial.rename(folder)
    _sync_folder(folder.parent)


def _unusable(contents: Contents, exams: pd.DataFrame, skipped: pd.DataFrame) -> InputError:
    institution = exams["institution"].iloc[0]
    labels = dict(zip(exams["exam_id"], exams.index, strict=True))
    row = exams.index.name or "row"
    problems = [
        f"{institution}, {row} {labels[exam_id]}, exam {exam_id}: {reason}"
        for exam_id, reason in zip(skipped["exam_id"], skipped["reason"], strict=True)
    ]
    remedy = (
        f"Every one is unusable: {contents.advice}."
        if len(skipped) == len(exams)
        else "Mend them, or set cohort.on_error=skip to leave them out: a run counts and lists "
        "what it left out."
    )
    return InputError(
        f"{institution}: {len(skipped)} of {len(exams)} {contents.files} cannot be used:\n"
        f"{listing(problems)}\n{remedy}"
    )


def _file_stamps(root: Path, paths: pd.Series, *, companions: bool) -> tuple["array[int]", int]:
    """A number for each exam that changes with its files, and the bytes of all these files.

    An exam's files are the one at its path and, with `companions`, those beside it with its name
    or stem. Names, sizes and times of change are hashed, and the hashes added up, so that the order
    of a listing does not matter.
    """
    stamps = array("Q", bytes(8 * len(paths)))
    n_bytes = 0
    rows_in: dict[str, dict[str, list[int]]] = {}
    for row, path in enumerate(paths.fillna("").tolist()):
        pure = PurePosixPath(path)
        for name in {pure.name, pure.stem} if companions else {pure.name}:
            rows_in.setdefault(str(pure.parent), {}).setdefault(name, []).append(row)
    for folder, rows_of in rows_in.items():
        try:
            entries = os.scandir(root / folder)
        except OSError:
            continue  # The reader says of each recording that it is not there.
        with entries:
            for entry in entries:
                names = (
                    {entry.name, os.path.splitext(entry.name)[0]} if companions else {entry.name}
                )
                rows = {row for name in names for row in rows_of.get(name, ())}
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
    institution: str, exams: pd.DataFrame, stamps: Sequence[int], contents: Contents
) -> str:
    about = [contents.format_version, institution, contents.settings]
    whole = sha256(json.dumps(about).encode())
    for exam_id, path in zip(exams["exam_id"], exams[contents.path_column], strict=True):
        whole.update(json.dumps([exam_id, path]).encode())
    for stamp in stamps:
        whole.update(stamp.to_bytes(8, "little"))
    return whole.hexdigest()[:12]


def texts_digest(table: pa.Table, columns: Sequence[str]) -> Any:
    """A SHA-256, to be added to, of the text columns of an index."""
    whole = sha256()
    for column in columns:
        for text in table[column].to_pylist():
            whole.update(f"{len(text)}:{text}".encode())
    return whole


def _shard_table(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def _check_space(partial: Path, n_bytes: int, institution: str) -> None:
    """Refuse to start where the disk cannot hold what is packed."""
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
