"""What a model says of one patient, or of a table of them; `--help` says more."""

import csv
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import InputError, NoAnswerError, listed, listing
from datamodules.parallel import progress_bar
from experiments import TRACKING, load_model

# Importing it also sets how OpenMP waits, which must be before torch is loaded.
from experiments.run import DONE, FAILED, MISTAKE

if TYPE_CHECKING:  # heavy: imported once the arguments are known to be right
    from experiments.inference import Exam, LoadedModel, Prediction

HELP = """\
What a trained model says of one patient, or of a table of patients: probabilities, or numbers.

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
    embeddings=FILE.parquet          instead, of a table: what the model's last layer sees of each
                                     exam; of a pretraining's run, its encoder's

A model with code of your own (a network, an input): it runs only if you allow it
    allow=[MODULE,...]               modules or packages that its checkpoint may name
    --config-dir DIR                 where they are, if they are not installed

Research software, not a medical device.
"""

OURS = ("model", "manifest", "format", "tracking.uri", "allow", "embeddings")
FORMATS = ("text", "json", "csv")


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
    if "embeddings" in given:
        if "format" in given:
            raise InputError("embeddings= writes a file, and no answer: leave format= out.")
        if not given["embeddings"].endswith(".parquet"):
            raise InputError(f"embeddings={given['embeddings']}: call it FILE.parquet.")
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

    Raises InputError also after a table of which some rows have no answer.
    """
    if "--config-dir" in given:
        folder = Path(given["--config-dir"]).resolve()
        if not folder.is_dir():
            raise InputError(f"--config-dir {folder}: there is no such folder.")
        sys.path.append(str(folder))
    allowed = [name.strip() for name in given.get("allow", "").strip("[]").split(",")]
    model = load_model(
        given["model"],
        tracking_uri=given["tracking.uri"],
        allow=[name for name in allowed if name],
    )
    if "manifest" in given:
        _answer_table(given, model, _in_manifest(Path(given["manifest"]), model))
        return
    inputs = _inputs(given)
    model.check_reads(inputs, OURS)
    folders = {name: Path(of) for name, of in inputs.items() if model.is_path(name)}
    folders = {name: path for name, path in folders.items() if path.is_dir()}
    if folders:
        _answer_table(given, model, _in_folders(inputs, folders, model))
        return
    if "embeddings" in given:
        raise InputError("embeddings= is of a table: a folder or a manifest.")
    if given["format"] == "csv":
        raise InputError("format=csv is for a table: a folder or a manifest. Give format=json.")
    prediction = model.predict_exam(model.exam(None, None, inputs))
    if given["format"] == "json":
        print(json.dumps(prediction.as_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join(_lines(prediction, model)))


def _answer_table(
    given: Mapping[str, str], model: "LoadedModel", exams: Mapping[str, "Exam"]
) -> None:
    if "embeddings" in given:
        _write_embeddings(Path(given["embeddings"]), model, exams)
        return
    rows = list(_rows(exams, model))
    if given["format"] == "json":
        print(json.dumps(rows, indent=2, allow_nan=False))
    elif given["format"] == "csv":
        _print_csv(rows, model)
    else:
        _print_table(rows, model)
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        raise InputError(f"{failed} of {len(rows)} exams have no answer; their rows say why.")


def _write_embeddings(file: Path, model: "LoadedModel", exams: Mapping[str, "Exam"]) -> None:
    """A row an exam: exam_id, and the embedding in e0, e1, ... (float32).

    Whole, or not there. Raises InputError also after a table that lacks some exams.
    """
    import numpy as np
    import pandas as pd

    if not file.parent.is_dir():
        raise InputError(f"embeddings={file}: there is no folder {file.parent}.")
    embedded, failed = {}, []
    with progress_bar(len(exams), "embedding") as bar:
        for exam_id, exam in exams.items():
            try:
                embedded[exam_id] = model.embed_exam(exam)
            except NoAnswerError:
                raise
            except InputError as error:
                failed.append(f"{exam_id}: {error}")
            bar.update()
    if not embedded:
        raise InputError(f"none of {len(exams)} exams has an embedding:\n{listing(failed)}")
    rows = np.stack(list(embedded.values()))
    table = pd.DataFrame(rows, columns=[f"e{i}" for i in range(rows.shape[1])])
    table.insert(0, "exam_id", list(embedded))
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        table.to_parquet(partial, index=False)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{len(table)} embeddings of {rows.shape[1]} numbers are in {file}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(exams)} exams have no embedding:\n{listing(failed)}"
        )


def _in_manifest(path: Path, model: "LoadedModel") -> dict[str, "Exam"]:
    """Each exam of a manifest by its id."""
    from datamodules.manifest import read_manifest
    from experiments.inference import Exam

    exams = {}
    for row in read_manifest(path, model.columns).to_dict("records"):
        known = {str(column): value for column, value in row.items() if value == value}
        exams[known["exam_id"]] = Exam(known, path.parent)
    return exams


def _in_folders(
    inputs: Mapping[str, str], folders: Mapping[str, Path], model: "LoadedModel"
) -> dict[str, "Exam"]:
    """Each exam of folders by its files' name; files of one name in two folders are one exam."""
    from experiments.inference import Exam

    for name in inputs:
        if name not in folders:
            raise InputError(
                f"{name}= is of one exam, and {next(iter(folders))}= a folder of many. "
                "Give a manifest, in which each exam has its own values."
            )
    exams: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        column = model.arguments[name]
        (input,) = (i for i in model.inputs.values() if name in i.arguments)
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
    return {exam: Exam(values) for exam, values in sorted(exams.items())}


def _rows(exams: Mapping[str, "Exam"], model: "LoadedModel") -> Iterator[dict[str, Any]]:
    with progress_bar(len(exams), "predicting") as bar:
        for exam_id, exam in exams.items():
            try:
                yield {"exam_id": exam_id, **model.predict_exam(exam).as_dict(), "error": None}
            except NoAnswerError:
                raise
            except InputError as error:
                yield {"exam_id": exam_id, _said(model)[0]: None, "error": str(error)}
            bar.update()


def _said(model: "LoadedModel") -> tuple[str, ...]:
    """The keys of an answer in JSON: `labels`, or of one label its task's."""
    return ("labels",) if len(model.labels) > 1 else model.fields


def _by_label(row: Mapping[str, Any], model: "LoadedModel") -> Iterator[dict[str, Any]]:
    """A row of an exam as rows of its labels, each with the task's fields and the submodels'
    numbers; one without a label where there is no answer."""
    if len(model.labels) == 1 or row["error"] is not None:
        yield {**row, **row.get("submodels", {})}
        return
    for label, fields in row["labels"].items():
        alone = {
            name: next(iter(of[label].values())) for name, of in row.get("submodels", {}).items()
        }
        yield {**row, "label": label, **fields, **alone}


def _lines(prediction: "Prediction", model: "LoadedModel") -> Iterator[str]:
    """The answer for one patient, as a doctor reads it."""
    called = model.called
    used = listed(called[input] for input in prediction.inputs)
    missing = ", ".join(f"no {called[input]}" for input in prediction.missing)
    source = f"from {used}{'; ' if missing else ''}{missing}"
    if len(prediction.labels) == 1:
        ((label, answer),) = prediction.labels.items()
        yield f"{_number(label, answer.fields)}    {source}"
        if verdict := _verdict(answer.fields):
            yield verdict[0].upper() + verdict[1:]
    else:
        yield source[0].upper() + source[1:]
        for label, answer in prediction.labels.items():
            verdict = _verdict(answer.fields)
            yield f"{_number(label, answer.fields)}{', ' if verdict else ''}{verdict}"
    if prediction.submodels:
        # By its own name where several read one input.
        inputs = list(model.submodels.values())
        yield " · ".join(
            f"{called[input] if inputs.count(input) == 1 else name} alone {_alone(by)}"
            for name, by in prediction.submodels.items()
            for input in (model.submodels[name],)
        )
    yield from (f"! {warning}" for warning in prediction.warnings)
    yield _origin(model)


def _number(label: str, fields: Mapping[str, Any]) -> str:
    if "probability" in fields:
        probability = fields["probability"]
        return f"Probability of {label}: {probability:.3f} ({100 * probability:.0f} %)"
    return f"Estimate of {label}: {_estimate(label, next(iter(fields.values())))}"


def _estimate(label: str, value: float) -> str:
    return f"{value:.1f} %" if label.endswith("_percent") else f"{value:.4g}"


def _verdict(fields: Mapping[str, Any]) -> str:
    if "positive" not in fields:
        return ""
    if fields["threshold"] is None:
        return "the model has no operating threshold to call it positive or negative by"
    called = "positive" if fields["positive"] else "negative"
    return f"{called} at the operating threshold of {fields['threshold']:.3f}"


def _alone(answers: Mapping[str, Any]) -> str:
    """What a submodel says by itself."""
    told = {
        label: f"{of.number:.2f}" if "probability" in of.fields else _estimate(label, of.number)
        for label, of in answers.items()
    }
    if len(told) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{label} {number}" for label, number in told.items())


def _origin(model: "LoadedModel") -> str:
    return (
        f"Model {model.name}, trained at {listed(model.institutions)}. "
        "Research software, not a medical device."
    )


def _print_table(rows: Sequence[Mapping[str, Any]], model: "LoadedModel") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    several = len(model.labels) > 1
    number = model.fields[0]
    title = f"{number.capitalize()} of {model.target}"
    if not several and model.thresholds[0] is not None:
        title += f", positive from {model.thresholds[0]:.3f}"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("exam", overflow="fold")
    for column in ("label",) * several:
        table.add_column(column)
    table.add_column(number, justify="right")
    columns = [*(("verdict",) if "positive" in model.fields else ()), "from", "remarks"]
    for column in columns:
        table.add_column(column)
    for row in rows:
        for of_label in _by_label(row, model):
            label = of_label.get("label", "" if several else model.labels[0])
            cells = dict.fromkeys((*model.fields, "verdict", "from"), "")
            cells["remarks"] = row["error"]
            if row["error"] is None:
                called = {True: "positive", False: "negative", None: ""}
                value = of_label[number]
                cells |= {
                    number: f"{value:.3f}" if number == "probability" else _estimate(label, value),
                    "verdict": called[of_label.get("positive")],
                    "from": listed(model.called[input] for input in row["inputs"]),
                    "remarks": "\n".join(row["warnings"]),
                }
            shown = [row["exam_id"], *((label,) * several), cells[number]]
            table.add_row(*map(Text, [*shown, *(cells[column] for column in columns)]))
    console = Console()
    # Wide enough for a remark, also where the output goes to a file.
    Console(width=max(120, console.width)).print(table)
    print(_origin(model))


def _print_csv(rows: Sequence[Mapping[str, Any]], model: "LoadedModel") -> None:
    columns = ["exam_id", *(["label"] if len(model.labels) > 1 else []), *model.fields]
    columns += ["inputs", "missing", *model.submodels, "warnings", "error"]
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        lists = {
            key: between.join(row.get(key, ()))
            for key, between in (("inputs", " + "), ("missing", " + "), ("warnings", "; "))
        }
        for of_label in _by_label(row, model):
            writer.writerow({**of_label, **lists})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
