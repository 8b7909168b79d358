"""The probability for one patient, or a table of them; `--help` says more."""

import csv
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import InputError
from datamodules.parallel import progress_bar

# Importing it also sets how OpenMP waits, which must be before torch is loaded.
from experiments.run import DONE, FAILED, MISTAKE

if TYPE_CHECKING:  # heavy: imported once the arguments are known to be right
    from experiments.inference import Exam, Prediction, Predictor

HELP = """\
The probability that a trained model gives one patient, or a table of patients.

    python -m experiments.predict model=MODEL [NAME=VALUE ...]

The model:
    model=FILE.ckpt                  a checkpoint
    model=RUN                        an MLflow run of a training or a launch, by its id
    model=NAME                       a registered model's latest version; also NAME/VERSION and
                                     NAME@ALIAS
    tracking.uri=URI                 where runs and registered models are (default:
                                     sqlite:///mlruns/mlflow.db)

The patient, by whichever of the model's inputs is at hand:
    ecg=FILE                         12-lead ECG, a WFDB record (.hea)
    cxr=FILE                         frontal chest X-ray, DICOM, PNG or JPEG
    bnp=NUMBER or nt_probnp=NUMBER   pg/mL; whichever the model was trained on
    age=YEARS sex=female|male        beside a blood test, if the model reads them

Many patients:
    ecg=DIR cxr=DIR                  every recording and film in these folders; those of one name
                                     are one exam
    manifest=FILE                    a manifest (CSV or Parquet), paths relative to its folder

The answer:
    format=text|json|csv             for people (the default), or for programs (csv: of a table)

Research software, not a medical device.
"""

FILES = ("ecg", "cxr")
# The manifest's columns of the values that can be given.
COLUMNS = {
    "bnp": "bnp_pg_ml",
    "nt_probnp": "nt_probnp_pg_ml",
    "age": "age_years",
    "sex": "sex",
}
NAMES = ("model", *FILES, *COLUMNS, "manifest", "format", "tracking.uri")
FORMATS = ("text", "json", "csv")
FILMS = (".dcm", ".png", ".jpg", ".jpeg")
TRACKING = "sqlite:///mlruns/mlflow.db"


def main(arguments: Sequence[str]) -> int:
    """Answer on stdout; the exit status: 0 done, 2 a person's mistake, 1 anything else."""
    try:
        if {"--help", "-h"} & set(arguments):
            print(HELP, end="")
            return DONE
        answer(read_arguments(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return MISTAKE
    except PermissionError as error:
        print(f"error: {error.filename} can't be read: {error.strerror}.", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return FAILED
    except Exception:
        traceback.print_exc()
        return FAILED
    return DONE


def read_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE arguments by name; `format` and `tracking.uri` filled in. Raises InputError."""
    given: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise InputError(f"{argument!r} is not of the form NAME=VALUE. --help lists the names.")
        if name not in NAMES:
            near = get_close_matches(name, NAMES, 1)
            remedy = f"Did you mean {near[0]}=?" if near else "--help lists the names."
            raise InputError(f"{argument}: there is no such name. {remedy}")
        if name in given:
            raise InputError(f"{name}= is given twice. Leave one out.")
        if not value:
            raise InputError(f"{name}= has no value. Give one, or leave {name}= out.")
        given[name] = value
    given = {"format": "text", "tracking.uri": TRACKING, **given}
    if given["format"] not in FORMATS:
        raise InputError(f"format={given['format']}: it is one of {', '.join(FORMATS)}.")
    if "model" not in given:
        raise InputError("Give the model: model=FILE.ckpt, a run's id or a registered model.")
    single = [name for name in (*FILES, *COLUMNS) if name in given]
    if "manifest" in given and single:
        raise InputError(
            f"manifest= and {single[0]}= can't be given together: a manifest names every input."
        )
    if "manifest" not in given and not set(single) - {"age", "sex"}:
        raise InputError("Give an input: ecg=, cxr=, bnp=, nt_probnp= or manifest=.")
    return given


def answer(given: Mapping[str, str]) -> None:
    """Print what the model says of the exams that `read_arguments` gave.

    Raises InputError also after a table of which some rows have no probability.
    """
    from experiments.inference import Exam, Predictor

    exams = _exams(given)
    if isinstance(exams, Exam) and given["format"] == "csv":
        raise InputError("format=csv is for a table: a folder or a manifest. Give format=json.")
    with _checkpoint(given["model"], given["tracking.uri"]) as checkpoint:
        predictor = Predictor(checkpoint, given["model"])
    _check_reads(predictor, given)
    if isinstance(exams, Exam):
        prediction = predictor(exams)
        if given["format"] == "json":
            print(json.dumps(prediction.as_dict(), indent=2, allow_nan=False))
        else:
            print("\n".join(_lines(prediction, predictor)))
        return
    rows = list(_rows(exams, predictor))
    if given["format"] == "json":
        print(json.dumps(rows, indent=2, allow_nan=False))
    elif given["format"] == "csv":
        _print_csv(rows, predictor)
    else:
        _print_table(rows, predictor)
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        raise InputError(f"{failed} of {len(rows)} exams have no probability; their rows say why.")


def _checkpoint(model: str, uri: str) -> AbstractContextManager[Path]:
    if model.endswith(".ckpt") or Path(model).is_file():
        return nullcontext(Path(model))
    from experiments.tracking import find_checkpoint  # MLflow takes seconds to import

    return find_checkpoint(model, uri)


def _exams(given: Mapping[str, str]) -> "Exam | dict[str, Exam]":
    """One exam, or each exam of folders or of a manifest by its id."""
    from experiments.inference import Exam

    if "manifest" in given:
        return _in_manifest(Path(given["manifest"]))
    paths = {name: Path(given[name]) for name in FILES if name in given}
    values = {COLUMNS[name]: _value(name, given[name]) for name in COLUMNS if name in given}
    folders = [name for name in paths if paths[name].is_dir()]
    if not folders:
        return Exam(paths.get("ecg"), paths.get("cxr"), values)
    for name in given:
        if name in (*FILES, *COLUMNS) and name not in folders:
            raise InputError(
                f"{name}= is of one exam, and {folders[0]}= a folder of many. "
                "Give a manifest, in which each exam has its own values."
            )
    ecgs = _recordings(paths["ecg"]) if "ecg" in paths else {}
    films = _films(paths["cxr"]) if "cxr" in paths else {}
    return {exam: Exam(ecgs.get(exam), films.get(exam)) for exam in sorted({*ecgs, *films})}


def _in_manifest(path: Path) -> "dict[str, Exam]":
    from datamodules.manifest import read_manifest
    from experiments.inference import Exam

    exams = {}
    for row in read_manifest(path).to_dict("records"):
        there = {str(column): value for column, value in row.items() if value == value}
        ecg, cxr = (
            path.parent / there[column] if column in there else None
            for column in ("ecg_path", "cxr_path")
        )
        values = {column: there[column] for column in COLUMNS.values() if column in there}
        exams[there["exam_id"]] = Exam(ecg, cxr, values)
    return exams


def _value(name: str, text: str) -> float | str:
    """A value from the command line, checked as if it stood in a manifest."""
    import pandas as pd

    from datamodules.manifest import check_manifest

    row = {"institution": "here", "patient_id": "1", "exam_id": "1", COLUMNS[name]: text}
    try:
        return check_manifest(pd.DataFrame([row]), "")[COLUMNS[name]].item()
    except InputError as error:
        problem = str(error).rpartition(f"column {COLUMNS[name]}: ")[2]
        told = problem.replace("leave it empty", "leave it out")
        raise InputError(
            f"{name}={text}: {told.replace('half of the values are below', 'it is below')}"
        ) from None


def _recordings(folder: Path) -> dict[str, Path]:
    found = {path.stem: path for path in sorted(folder.glob("*.hea"))}
    if not found:
        raise InputError(f"ecg={folder}: there is no recording (.hea) in this folder.")
    return found


def _films(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        named = path.suffix.lower() in FILMS
        if not named and not _is_dicom(path):
            continue
        exam = path.stem if named else path.name
        if exam in found:
            raise InputError(
                f"cxr={folder}: {found[exam].name} and {path.name} are two films of one name; "
                "rename or remove one."
            )
        found[exam] = path
    if not found:
        raise InputError(
            f"cxr={folder}: there is no chest X-ray (DICOM, PNG or JPEG) in this folder."
        )
    return found


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


def _check_reads(predictor: "Predictor", given: Mapping[str, str]) -> None:
    """Refuse what the model would leave out of account, so that nobody takes it for counted."""
    blood = [name for name, column in COLUMNS.items() if column in predictor.columns]
    reads = [name for name in FILES if name in predictor.labels] + blood
    for name in (*FILES, *COLUMNS):
        if name not in given or name in reads:
            continue
        if name in ("bnp", "nt_probnp") and blood:
            raise InputError(
                f"{name}={given[name]}: {predictor.name} was trained on {blood[0]}=, and BNP and "
                f"NT-proBNP are never mixed. Give {blood[0]}=, or neither."
            )
        raise InputError(
            f"{name}={given[name]}: {predictor.name} does not read it, but "
            f"{_listed(predictor.labels.values())}. Leave {name}= out."
        )
    absent = [name for name in blood if name not in given]
    if absent and len(absent) < len(blood):
        raise InputError(
            f"{predictor.name} reads {_listed(blood)} together: give {_listed(absent)} too."
        )


def _rows(exams: "Mapping[str, Exam]", predictor: "Predictor") -> Iterator[dict[str, Any]]:
    with progress_bar(len(exams), "predicting") as bar:
        for exam_id, exam in exams.items():
            try:
                yield {"exam_id": exam_id, **predictor(exam).as_dict(), "error": None}
            except InputError as error:
                yield {"exam_id": exam_id, "probability": None, "error": str(error)}
            bar.update()


def _lines(prediction: "Prediction", predictor: "Predictor") -> Iterator[str]:
    """The answer for one patient, as a doctor reads it."""
    labels, probability = predictor.labels, prediction.probability
    used = _listed(labels[input] for input in prediction.inputs)
    missing = ", ".join(f"no {labels[input]}" for input in prediction.missing)
    yield (
        f"Probability of {predictor.target}: {probability:.3f} ({100 * probability:.0f} %)"
        f"    from {used}{'; ' if missing else ''}{missing}"
    )
    if prediction.threshold is None:
        yield "The checkpoint has no operating threshold to call it positive or negative by"
    else:
        called = "Positive" if prediction.positive else "Negative"
        yield f"{called} at the operating threshold of {prediction.threshold:.3f}"
    if prediction.submodels:
        yield " · ".join(
            f"{labels[predictor.submodels[name]]} alone {alone:.2f}"
            for name, alone in prediction.submodels.items()
        )
    yield from (f"! {warning}" for warning in prediction.warnings)
    yield _origin(predictor)


def _origin(predictor: "Predictor") -> str:
    return (
        f"Model {predictor.name}, trained at {_listed(predictor.institutions)}. "
        "Research software, not a medical device."
    )


def _print_table(rows: Sequence[Mapping[str, Any]], predictor: "Predictor") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    threshold = predictor.threshold
    called_from = "" if threshold is None else f", positive from {threshold:.3f}"
    table = Table(title=f"Probability of {predictor.target}{called_from}", box=box.SIMPLE_HEAD)
    table.add_column("exam", overflow="fold")
    table.add_column("probability", justify="right")
    for column in ("verdict", "from", "remarks"):
        table.add_column(column)
    for row in rows:
        cells = [row["exam_id"], "", "", "", row["error"]]
        if row["error"] is None:
            called = {True: "positive", False: "negative", None: ""}[row["positive"]]
            used = _listed(predictor.labels[input] for input in row["inputs"])
            remarks = "\n".join(row["warnings"])
            cells = [row["exam_id"], f"{row['probability']:.3f}", called, used, remarks]
        table.add_row(*map(Text, cells))
    console = Console()
    # Wide enough for a remark, also where the output goes to a file.
    Console(width=max(120, console.width)).print(table)
    print(_origin(predictor))


def _print_csv(rows: Sequence[Mapping[str, Any]], predictor: "Predictor") -> None:
    columns = ["exam_id", "probability", "threshold", "positive", "inputs", "missing"]
    columns += [*predictor.submodels, "warnings", "error"]
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        lists = {
            key: between.join(row.get(key, ()))
            for key, between in (("inputs", " + "), ("missing", " + "), ("warnings", "; "))
        }
        writer.writerow({**row, **row.get("submodels", {}), **lists})


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
