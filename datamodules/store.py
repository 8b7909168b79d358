"""Packed, memory-mapped values of one institution: written once, read for ever.

A store is a folder `<institution><suffix>-<fingerprint>` with its shards (exam after exam),
`index.parquet` (where each exam lies), `skipped.parquet` and, written last, `store.json`. It is
whole, or it is not there. What it holds is its `Contents`, of which each input has one.
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
from typing import Any, ClassVar, Literal

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datamodules.errors import InputError, listing
from datamodules.parallel import parallel_map
from datamodules.provenance import code_of

log = logging.getLogger(__name__)

FORMAT = 2  # of a store's folder


class Contents(ABC):
    """What one kind of store holds, and how it comes by it; goes to worker processes, pickled.

    files: what messages call the packed files. path_column: the exams' column that names them.
    companions: whether files beside one, of its name or stem, belong to it. suffix: of the
    institution in the store's name. shard_name, dtype: of the shards. exams_per_shard: one
    worker's task between two renames. columns: what `read` says of an exam, and the index holds;
    those in `identity` say, in order, what an exam is. advice: what to look at where every file is
    unusable. code: the modules that files are read by: where they change, files are read anew.
    """

    files: ClassVar[str]
    path_column: ClassVar[str]
    companions: ClassVar[bool]
    suffix: ClassVar[str]
    shard_name: ClassVar[str]
    dtype: ClassVar[str]
    exams_per_shard: ClassVar[int]
    columns: ClassVar[tuple[tuple[str, pa.DataType], ...]]
    identity: ClassVar[tuple[tuple[str, str], ...]]
    advice: ClassVar[str]
    code: ClassVar[tuple[str, ...]]

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


class Store:
    """A whole store, open for reading; pickled as its folder's name, so that workers map it anew.

    index: a row an exam: exam_id, shard, offset and n_values (in the shard), values (BLAKE2b-128
        of the packed values, hexadecimal), and the numbers that its contents say of it.
    digest: SHA-256 over exam ids and what identifies each exam's values, in order; the same
        wherever, and by however many workers, the files were packed.
    skipped: exam_id, path and reason of each file that was left out.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError where a file of the store is missing, or not as long as it was."""
        self.folder = folder
        try:
            self._facts = json.loads((folder / "store.json").read_text())
            table = pq.read_table(folder / "index.parquet")
            self.skipped = pd.read_parquet(folder / "skipped.parquet")
        except (OSError, ValueError) as error:
            raise self._torn(str(error)) from error
        self.institution: str = self._facts["institution"]
        self.digest: str = self._facts["digest"]
        lists = {field.name for field in table.schema if pa.types.is_list(field.type)}
        self.index: pd.DataFrame = table.drop_columns(sorted(lists)).to_pandas()
        self._matrices = {name: _matrix(table, name) for name in lists}
        self._shard = self.index["shard"].to_numpy()
        self._start = self.index["offset"].to_numpy()
        self._n_values = self.index["n_values"].to_numpy()
        self._maps: dict[int, NDArray[Any]] = {}
        self._check_shards()

    def _check_shards(self) -> None:
        itemsize = np.dtype(self._facts["dtype"]).itemsize
        values = np.bincount(
            self._shard, weights=self._n_values, minlength=self._facts["shards"]
        ).astype(np.int64)
        for shard, expected in enumerate(values * itemsize):
            path = self._shard_path(shard)
            size = path.stat().st_size if path.exists() else None
            if size != expected:
                found = "is missing" if size is None else f"has {size} bytes"
                raise self._torn(f"{path.name} {found} where {expected} were written")

    def _shard_path(self, shard: int) -> Path:
        return self.folder / str(self._facts["shard_name"]).format(shard)

    def _torn(self, reason: str) -> InputError:
        return InputError(
            f"{self.folder}: the store is damaged: {reason}. Delete this folder; it is packed "
            "again from the files."
        )

    def __len__(self) -> int:
        return len(self._shard)

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return type(self), (self.folder,)

    def read(self, row: int) -> NDArray[Any]:
        """The exam's values [n_values] as they were packed, read-only."""
        shard = int(self._shard[row])
        if shard not in self._maps:
            mapped = np.memmap(self._shard_path(shard), dtype=self._facts["dtype"], mode="r")
            self._maps[shard] = mapped.view(np.ndarray)
        start = int(self._start[row])
        return self._maps[shard][start : start + int(self._n_values[row])]

    def matrix(self, column: str) -> NDArray[Any]:
        """A column of the index that holds k numbers an exam: [n, k]."""
        return self._matrices[column]

    def rows_of(self, exam_ids: Sequence[str] | pd.Series) -> NDArray[np.int64]:
        """The row of each exam, -1 for one that is not in the store."""
        rows = pd.Index(self.index["exam_id"]).get_indexer(pd.Index(exam_ids))
        return np.asarray(rows, dtype=np.int64)


def _matrix(table: pa.Table, column: str) -> NDArray[Any]:
    flat: NDArray[Any] = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), -1 if len(table) else 0)


def pack(
    contents: Contents,
    exams: pd.DataFrame,
    root: Path,
    store_root: Path,
    *,
    workers: int,
    on_error: Literal["fail", "skip"],
) -> Store:
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
                    _build(folder, contents, exams, root, n_bytes, workers, on_error)
    store = Store(folder)
    if on_error == "fail" and len(store.skipped):
        raise _unusable(contents, exams, store.skipped)
    return store


def _build(
    folder: Path,
    contents: Contents,
    exams: pd.DataFrame,
    root: Path,
    n_bytes: int,
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
        starts = range(0, len(exams), contents.exams_per_shard)
        jobs = []
        for shard, start in enumerate(starts):
            chosen = slice(start, start + contents.exams_per_shard)
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
            digest = blake2b(values.data, digest_size=16).hexdigest()
            row |= {"offset": offset, "n_values": values.size, "values": digest, **about}
            file.write(values)
            offset += values.size
    schema = pa.schema(
        [
            ("exam_id", pa.string()),
            (contents.path_column, pa.string()),
            ("reason", pa.string()),
            ("offset", pa.int64()),
            ("n_values", pa.int64()),
            ("values", pa.string()),
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
    return bool(size == n_bytes and table["exam_id"].to_pylist() == exam_ids)


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
        ["exam_id", "shard", "offset", "n_values", "values"]
        + [name for name, _ in contents.columns]
    )
    if len(skipped) and (on_error == "fail" or not len(table)):
        raise _unusable(contents, exams, skipped.to_pandas())
    for name, rows in (("index.parquet", table), ("skipped.parquet", skipped)):
        with _renamed_when_whole(partial / name) as file:
            pq.write_table(rows, file)
    facts = {
        "format": FORMAT,
        "institution": exams["institution"].iloc[0],
        "exams": len(table),
        "shards": shards,
        "digest": _digest(contents, table),
        "settings": contents.settings,
        "dtype": contents.dtype,
        "shard_name": contents.shard_name,
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
    about = [FORMAT, institution, contents.settings, code_of(contents.code)]
    whole = sha256(json.dumps(about).encode())
    for exam_id, path in zip(exams["exam_id"], exams[contents.path_column], strict=True):
        whole.update(json.dumps([exam_id, path]).encode())
    for stamp in stamps:
        whole.update(stamp.to_bytes(8, "little"))
    return whole.hexdigest()[:12]


def _digest(contents: Contents, table: pa.Table) -> str:
    whole = sha256()
    for column in ("exam_id", "values"):
        for text in table[column].to_pylist():
            whole.update(f"{len(text)}:{text}".encode())
    for column, dtype in contents.identity:
        numbers = table[column].combine_chunks()
        if pa.types.is_list(numbers.type):
            numbers = numbers.flatten()
        whole.update(numbers.to_numpy(zero_copy_only=False).astype(dtype).tobytes())
    return whole.hexdigest()


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
