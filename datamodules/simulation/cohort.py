"""Write simulated institutions as hospitals' files: WFDB records, DICOM films and a manifest."""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import InputError
from datamodules.parallel import parallel_map
from datamodules.simulation.cxr import Body, draw_body, simulate_cxr, write_dicom
from datamodules.simulation.ecg import draw_anatomy, simulate_ecg
from datamodules.simulation.institutions import Institution, generator, read_institutions
from datamodules.simulation.patients import FILM, Exam, draw_patient

GENERATOR = 3  # to be raised when the same settings and seed give other files
_PATIENTS_A_CHUNK = 100

_MANIFEST = (
    "institution",
    "patient_id",
    "exam_id",
    "ecg_path",
    "ecg_time",
    "cxr_path",
    "bnp_pg_ml",
    "lvef_percent",
    "echo_time",
    "tr_velocity_m_s",
    "pasp_mmhg",
    "age_years",
    "sex",
)
_CXR = ("exam_id", *FILM)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Patients that one worker simulates in one go, into one folder of ECGs and one of films."""

    institution: str
    settings: Institution
    seed: int
    folder: Path  # <institution>.partial
    number: int
    first_patient: int
    exams: tuple[int, ...]  # to be written, of each patient
    drawn: tuple[int, ...]  # of each patient; more for the last, where the cohort's size cuts in


def simulate_cohort(
    institutions: Mapping[str, Mapping[str, Any]], root: Path, *, seed: int, workers: int
) -> None:
    """Write `<root>/<institution>.csv` and `<root>/<institution>/` for every institution.

    A folder holds ecg/<NNN>/<exam>.hea and .dat, cxr/<NNN>/<exam>.dcm where chest_xrays is true,
    cxr_parameters.csv (what a chest X-ray of the exam shows, or would show) and settings.json. An
    institution is written beside, as `<institution>.partial`, and is there only when its manifest
    is; an interrupted run goes on where it stopped, and an institution that is there with the same
    settings is left as it is.

    Every patient depends on the seed, the institution's name and his or her number alone: a
    larger cohort begins with the same exams, however many workers write it.

    Raises:
        InputError: settings that cannot be used, or files in `root` that came from others; these
            are never overwritten.
    """
    checked = read_institutions(institutions)
    missing = {
        name: settings
        for name, settings in checked.items()
        if not _is_there(root, name, _stamp(settings, seed))
    }
    chunks: list[_Chunk] = []
    last: dict[str, int] = {}
    for name, settings in missing.items():
        partial = _partial_folder(root, name, _stamp(settings, seed))
        chunks += _chunks(name, settings, seed, partial)
        last[name] = chunks[-1].number
    waiting = [chunk for chunk in chunks if not _rows(chunk, "manifest").exists()]
    finished = parallel_map(_simulate_chunk, waiting, workers, description="simulate exams")
    for chunk, _ in zip(waiting, finished, strict=True):
        if chunk.number == last[chunk.institution]:
            _publish(root, chunk.institution)
            del last[chunk.institution]
    for name in last:  # interrupted after its last chunk
        _publish(root, name)


def _stamp(settings: Institution, seed: int) -> dict[str, Any]:
    stamp = {"generator": GENERATOR, "seed": seed, "settings": asdict(settings)}
    as_read_back: dict[str, Any] = json.loads(json.dumps(stamp))  # tuples as lists
    return as_read_back


def _is_there(root: Path, name: str, stamp: dict[str, Any]) -> bool:
    manifest, folder = root / f"{name}.csv", root / name
    if not manifest.exists() and not folder.exists():
        return False
    if _read_stamp(folder) != stamp:
        raise InputError(
            f"{folder}: was not made with these simulation settings (seed, institution's settings, "
            "version of the generator), and is not overwritten. Give another cohort.root, or "
            f"remove {manifest} and {folder} yourself."
        )
    if not manifest.exists():
        if not (folder / "manifest.csv").exists():
            raise InputError(
                f"{folder}: its manifest {manifest} is gone. Put it back, or remove the folder."
            )
        _show(root, name)  # interrupted just before
    return True


def _read_stamp(folder: Path) -> Any:
    try:
        return json.loads((folder / "settings.json").read_text())
    except (OSError, ValueError):
        return None


def _partial_folder(root: Path, name: str, stamp: dict[str, Any]) -> Path:
    """The folder to go on in; what an interrupted run with other settings left is removed."""
    folder = root / f"{name}.partial"
    if _read_stamp(folder) != stamp:
        if folder.exists():
            shutil.rmtree(folder)
        (folder / "rows").mkdir(parents=True)
        (folder / "settings.json").write_text(json.dumps(stamp, indent=1) + "\n")
    return folder


def _chunks(name: str, settings: Institution, seed: int, folder: Path) -> Iterator[_Chunk]:
    # One number a patient, from one stream: more exams only read further in it.
    uniform = generator(seed, name).random(settings.exams)
    share = uniform / max(settings.repeat_fraction, 1e-12)
    drawn = np.where(share < 1, 2 + (3 * share).astype(int), 1)
    before = np.concatenate([[0], np.cumsum(drawn)])
    patients = int(np.searchsorted(before, settings.exams))
    written = np.minimum(drawn, settings.exams - before[:-1])
    for number, first in enumerate(range(0, patients, _PATIENTS_A_CHUNK)):
        part = slice(first, min(first + _PATIENTS_A_CHUNK, patients))
        yield _Chunk(
            institution=name,
            settings=settings,
            seed=seed,
            folder=folder,
            number=number,
            first_patient=first,
            exams=tuple(written[part].tolist()),
            drawn=tuple(drawn[part].tolist()),
        )


def _rows(chunk: _Chunk, table: str) -> Path:
    return chunk.folder / "rows" / f"{chunk.number:06d}.{table}.csv"


def _simulate_chunk(chunk: _Chunk) -> None:
    name, settings = chunk.institution, chunk.settings
    ecgs = f"ecg/{chunk.number:03d}"
    films = f"cxr/{chunk.number:03d}"
    for folder in (ecgs, films) if settings.chest_xrays else (ecgs,):
        (chunk.folder / folder).mkdir(parents=True, exist_ok=True)
    manifest: list[dict[str, Any]] = []
    findings: list[tuple[Any, ...]] = []
    for offset, (written, drawn) in enumerate(zip(chunk.exams, chunk.drawn, strict=True)):
        index = chunk.first_patient + offset
        rng = generator(chunk.seed, name, index + 1)
        patient = f"{name}-p{index:06d}"
        exams = draw_patient(rng, settings, drawn)[:written]
        anatomy = draw_anatomy(rng)
        # Streams of their own for the films: the ECGs are the same with and without.
        body = draw_body(generator(chunk.seed, name, index + 1, 0, 1), exams[0].male)
        for number, exam in enumerate(exams, start=1):
            exam_id = f"{patient}-e{number}"
            of_ecg = generator(chunk.seed, name, index + 1, number)
            digital = simulate_ecg(of_ecg, exam.latents, anatomy, exam.male, settings)
            _write_record(chunk.folder / ecgs / exam_id, digital, exam, settings)
            cxr_path = None
            if settings.chest_xrays and exam.cxr is not None:
                of_film = generator(chunk.seed, name, index + 1, number, 1)
                path = chunk.folder / films / f"{exam_id}.dcm"
                _take_film(of_film, path, chunk, patient, exam, exam.cxr, body)
                cxr_path = f"{name}/{films}/{exam_id}.dcm"
            manifest.append(
                {
                    "institution": name,
                    "patient_id": patient,
                    "exam_id": exam_id,
                    "ecg_path": f"{name}/{ecgs}/{exam_id}.hea",
                    "ecg_time": _time(exam.ecg_time),
                    "cxr_path": cxr_path,
                    "bnp_pg_ml": exam.bnp_pg_ml,
                    "lvef_percent": exam.lvef_percent,
                    "echo_time": _time(exam.echo_time),
                    "tr_velocity_m_s": exam.tr_velocity_m_s,
                    "pasp_mmhg": exam.pasp_mmhg,
                    "age_years": exam.age_years,
                    "sex": "male" if exam.male else "female",
                }
            )
            if exam.cxr is not None:
                findings.append((exam_id, *(f"{value:.4f}" for value in exam.cxr)))
    _write_rows(_rows(chunk, "cxr_parameters"), findings)
    # Last: with this file the chunk is done.
    _write_rows(
        _rows(chunk, "manifest"), [tuple(row[column] for column in _MANIFEST) for row in manifest]
    )


def _time(time: datetime | None) -> str | None:
    return time.strftime("%Y-%m-%d %H:%M:%S") if time else None


def _write_rows(path: Path, rows: list[tuple[Any, ...]]) -> None:
    unfinished = path.with_suffix(".writing")
    with unfinished.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    unfinished.rename(path)


def _write_record(
    path: Path, digital: NDArray[np.int16], exam: Exam, settings: Institution
) -> None:
    """Write a WFDB record of format 16 (https://wfdb.io/spec/header-files.html).

    By hand, because `wfdb.wrsamp` takes several times as long as the simulation of the ECG.
    """
    checksums = digital.sum(axis=0, dtype=np.int64) % 65536
    gain = f"{settings.units_per_mv!r}({settings.baseline})/mV"
    lines = [f"{path.name} 12 {settings.sampling_rate_hz} {len(digital)}"]
    lines += [
        f"{path.name}.dat 16 {gain} 16 0 {start} {checksum} 0 {lead}"
        for start, checksum, lead in zip(
            digital[0].tolist(), checksums.tolist(), settings.leads, strict=True
        )
    ]
    digital.astype("<i2", copy=False).tofile(path.with_name(f"{path.name}.dat"))
    path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n")


def _take_film(
    rng: np.random.Generator,
    path: Path,
    chunk: _Chunk,
    patient_id: str,
    exam: Exam,
    findings: tuple[float, ...],
    body: Body,
) -> None:
    settings = chunk.settings
    anteroposterior = bool(rng.random() < settings.ap_fraction)
    height_px = int(rng.integers(*settings.film_height_px, endpoint=True))
    write_dicom(
        path,
        simulate_cxr(rng, findings, body, height_px=height_px, anteroposterior=anteroposterior),
        patient_id=patient_id,
        exam_id=path.stem,
        seed=chunk.seed,
        taken=exam.ecg_time,
        age_years=exam.age_years,
        male=exam.male,
        anteroposterior=anteroposterior,
        photometric_interpretation=settings.photometric_interpretation,
        transfer_syntax=settings.transfer_syntax,
    )


def _publish(root: Path, name: str) -> None:
    folder = root / f"{name}.partial"
    for table, columns in (("manifest", _MANIFEST), ("cxr_parameters", _CXR)):
        with (folder / f"{table}.csv").open("w", newline="") as whole:
            csv.writer(whole, lineterminator="\n").writerow(columns)
            for part in sorted((folder / "rows").glob(f"*.{table}.csv")):
                with part.open() as rows:
                    shutil.copyfileobj(rows, whole)
    folder.rename(root / name)
    _show(root, name)


def _show(root: Path, name: str) -> None:
    shutil.rmtree(root / name / "rows", ignore_errors=True)
    (root / name / "manifest.csv").rename(root / f"{name}.csv")
