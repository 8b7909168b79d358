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
    from experiments.inference import Prediction, Predictor

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
    NAME=VALUE                       whatever else the model's inputs take

Many patients:
    ecg=DIR cxr=DIR                  every recording and film in these folders; those of one name
                                     are one exam
    manifest=FILE                    a manifest (CSV or Parquet), paths relative to its folder

The answer:
    format=text|json|csv             for people (the default), or for programs (csv: of a table)

A model with code of your own (a network, an input): it runs only if you allow it
    allow=[MODULE,...]               modules or packages that its checkpoint may name
    --config-dir DIR                 where they are, if they are not installed

Research software, not a medical device.
"""

OURS = ("model", "manifest", "format", "tracking.uri", "allow")
FORMATS = ("text", "json", "csv")
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
    """NAME=VALUE arguments by name; `format` and `tracking.uri` filled in. Raises InputError.

    Which names beside `model`, `manifest` and these there are is for the model to say.
    """
    given: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--config-dir" and waiting:
            argument = f"--config-dir={waiting.pop(0)}"
        name, equals, value = argument.partition("=")
        if not equals:
            raise InputError(f"{argument!r} is not of the form NAME=VALUE. --help lists the names.")
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
    inputs = _inputs(given)
    if "manifest" in given and inputs:
        raise InputError(
            f"manifest= and {next(iter(inputs))}= can't be given together: a manifest names every "
            "input."
        )
    if "manifest" not in given and not inputs:
        raise InputError("Give an input, such as ecg=, or a manifest=.")
    return given


def _inputs(given: Mapping[str, str]) -> dict[str, str]:
    """The arguments that are a model's to know."""
    return {name: of for name, of in given.items() if name not in (*OURS, "--config-dir")}


def answer(given: Mapping[str, str]) -> None:
    """Print what the model says of the exams that `read_arguments` gave.

    Raises InputError also after a table of which some rows have no probability.
    """
    from experiments.inference import Predictor

    if "--config-dir" in given:
        folder = Path(given["--config-dir"]).resolve()
        if not folder.is_dir():
            raise InputError(f"--config-dir {folder}: there is no such folder.")
        sys.path.append(str(folder))
    allowed = [name.strip() for name in given.get("allow", "").strip("[]").split(",")]
    with _checkpoint(given["model"], given["tracking.uri"]) as checkpoint:
        predictor = Predictor(checkpoint, given["model"], [name for name in allowed if name])
    if "manifest" in given:
        path = Path(given["manifest"])
        _answer_table(given, predictor, _in_manifest(path, predictor), path.parent)
        return
    inputs = _inputs(given)
    _check_reads(predictor, inputs)
    folders = {name: Path(of) for name, of in inputs.items() if _is_path(predictor, name)}
    folders = {name: path for name, path in folders.items() if path.is_dir()}
    if folders:
        _answer_table(given, predictor, _in_folders(inputs, folders, predictor), Path())
        return
    if given["format"] == "csv":
        raise InputError("format=csv is for a table: a folder or a manifest. Give format=json.")
    prediction = predictor(_values(inputs, predictor))
    if given["format"] == "json":
        print(json.dumps(prediction.as_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join(_lines(prediction, predictor)))


def _answer_table(
    given: Mapping[str, str],
    predictor: "Predictor",
    exams: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> None:
    rows = list(_rows(exams, predictor, folder))
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


def _is_path(predictor: "Predictor", name: str) -> bool:
    column = predictor.columns.get(predictor.arguments[name])
    return column is not None and column.kind == "path"


def _in_manifest(path: Path, predictor: "Predictor") -> dict[str, dict[str, Any]]:
    """Each exam of a manifest by its id: its known values by their columns."""
    from datamodules.manifest import read_manifest

    exams = {}
    for row in read_manifest(path, predictor.columns).to_dict("records"):
        known = {str(column): value for column, value in row.items() if value == value}
        exams[known["exam_id"]] = known
    return exams


def _in_folders(
    inputs: Mapping[str, str], folders: Mapping[str, Path], predictor: "Predictor"
) -> dict[str, dict[str, Any]]:
    """Each exam of folders by its files' name; files of one name in two folders are one exam."""
    for name in inputs:
        if name not in folders:
            raise InputError(
                f"{name}= is of one exam, and {next(iter(folders))}= a folder of many. "
                "Give a manifest, in which each exam has its own values."
            )
    exams: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        column = predictor.arguments[name]
        (input,) = (i for i in predictor.inputs.values() if name in i.arguments)
        found = input.files_in(folder)
        if not found:
            raise InputError(
                f"{name}={folder}: there is no {input.label} ({input.endings}) in this folder."
            )
        for path in found:
            exam = input.exam_of(path)
            if column in exams.setdefault(exam, {}):
                other = Path(exams[exam][column]).name
                raise InputError(
                    f"{name}={folder}: {other} and {path.name} are two {input.label}s of one name; "
                    "rename or remove one."
                )
            exams[exam][column] = path.resolve()
    return dict(sorted(exams.items()))


def _values(inputs: Mapping[str, str], predictor: "Predictor") -> dict[str, Any]:
    """Values from the command line by their columns, checked as if they stood in a manifest."""
    values: dict[str, Any] = {}
    for name, text in inputs.items():
        column = predictor.arguments[name]
        if _is_path(predictor, name):
            values[column] = Path(text).resolve()
        else:
            values[column] = _value(name, column, text, predictor)
    return values


def _value(name: str, column: str, text: str, predictor: "Predictor") -> float | str:
    import pandas as pd

    from datamodules.manifest import check_manifest

    row = {"institution": "here", "patient_id": "1", "exam_id": "1", column: text}
    try:
        value: float | str = check_manifest(pd.DataFrame([row]), "", predictor.columns)[
            column
        ].item()
    except InputError as error:
        problem = str(error).rpartition(f"column {column}: ")[2]
        told = problem.replace("leave it empty", "leave it out")
        raise InputError(
            f"{name}={text}: {told.replace('half of the values are below', 'it is below')}"
        ) from None
    return value


def _check_reads(predictor: "Predictor", inputs: Mapping[str, str]) -> None:
    """Refuse what the model would leave out of account, so that nobody takes it for counted."""
    known = predictor.arguments
    for name, value in inputs.items():
        if name in known:
            continue
        for input in predictor.inputs.values():
            if told := input.instead_of(name):
                raise InputError(f"{name}={value}: {predictor.name} {told}")
        near = get_close_matches(name, [*known, *OURS], 1)
        remedy = f"Did you mean {near[0]}=?" if near else f"Leave {name}= out."
        raise InputError(
            f"{name}={value}: {predictor.name} does not read it, but "
            f"{_listed(predictor.labels.values())} ({', '.join(f'{k}=' for k in known)}). {remedy}"
        )
    for input in predictor.inputs.values():
        absent = [name for name in input.arguments if name not in inputs]
        if absent and len(absent) < len(input.arguments):
            raise InputError(
                f"{predictor.name} reads {_listed(input.arguments)} together: give "
                f"{_listed(absent)} too."
            )


def _rows(
    exams: Mapping[str, Mapping[str, Any]], predictor: "Predictor", folder: Path
) -> Iterator[dict[str, Any]]:
    with progress_bar(len(exams), "predicting") as bar:
        for exam_id, values in exams.items():
            try:
                yield {"exam_id": exam_id, **predictor(values, folder).as_dict(), "error": None}
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
        # By its own name where several read one input.
        inputs = list(predictor.submodels.values())
        yield " · ".join(
            f"{labels[input] if inputs.count(input) == 1 else name} alone {alone:.2f}"
            for name, alone in prediction.submodels.items()
            for input in (predictor.submodels[name],)
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
