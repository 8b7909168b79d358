"""Checkpoints of tiny models, made and tested as the stages do, asked by the command's `main`."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
import wfdb
from mlflow import MlflowClient
from mlflow.entities import RunTag
from PIL import Image
from tiny_models import SUBMODELS, TRAINED_AT, Models, made_models, save, settings_of

from datamodules.inputs.blood import Blood
from datamodules.inputs.input import Fitted
from datamodules.manifest import read_manifest
from datamodules.recordings import LEADS
from experiments.predict import main
from lightning_modules.ph import PHBNPClassifier

Ask = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return made_models(tmp_path_factory.mktemp("predict"))


@pytest.fixture
def ask(models: Models, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Ask a model by name, checkpoint or anything else; its status, output and message."""

    def ask(model: object, *arguments: str, **named: object) -> SimpleNamespace:
        capsys.readouterr()
        named = {"model": models.checkpoints.get(str(model), model), **named}
        status = main([*(f"{name}={value}" for name, value in named.items()), *arguments])
        shown = capsys.readouterr()
        errors = shown.err.split("\r")[-1].strip()
        assert "Traceback" not in shown.err
        assert errors.count("error: ") == (status == 2)
        return SimpleNamespace(
            status=status, out=shown.out, error=errors[errors.find("error: ") :] if status else ""
        )

    return ask


@pytest.fixture
def refused(ask: Ask) -> Callable[..., str]:
    def refused(model: object, *arguments: str, **named: object) -> str:
        answer = ask(model, *arguments, **named)
        assert (answer.status, answer.out) == (2, "")
        return answer.error

    return refused


def files_of(models: Models, exam: pd.Series, *inputs: str) -> dict[str, object]:
    there = {
        "ecg": models.root / str(exam["ecg_path"]),
        "cxr": models.root / str(exam["cxr_path"]),
        "bnp": exam["bnp_pg_ml"],
    }
    return {input: there[input] for input in inputs}


@pytest.mark.parametrize("institution", [TRAINED_AT, "brindlefen"])
def test_a_manifest_gives_the_probabilities_of_the_test(
    models: Models, ask: Ask, institution: str
) -> None:
    expected = models.tested[models.tested["institution"] == institution].set_index("exam_id")
    assert len(expected) >= 20
    assert expected["ph_cxr"].isna().any()
    assert expected["ph_bnp"].isna().any()
    for model in ("ph_fusion", *SUBMODELS.values()):
        answer = ask(model, manifest=models.root / f"{institution}.csv", format="json")
        rows = json.loads(answer.out)
        known = expected[model].dropna()
        assert known.std() > 1e-3
        given = {row["exam_id"]: row["probability"] for row in rows}
        assert list(given) == list(read_manifest(models.root / f"{institution}.csv")["exam_id"])
        for exam, probability in given.items():
            if exam in known:
                assert probability == pytest.approx(known[exam], abs=1e-5)
            else:
                assert probability is None
        assert answer.status == (2 if len(known) < len(rows) else 0)


def test_each_subset_of_inputs_counts_alone(models: Models, ask: Ask) -> None:
    exam = models.exam()
    seen = set()
    for used in (["ecg"], ["cxr"], ["bnp"], ["ecg", "bnp"], ["ecg", "cxr", "bnp"]):
        answer = json.loads(ask("ph_fusion", format="json", **files_of(models, exam, *used)).out)
        assert answer["inputs"] == used
        assert answer["missing"] == [input for input in SUBMODELS if input not in used]
        assert answer["submodels"] == pytest.approx(
            {SUBMODELS[i]: models.probability(exam, SUBMODELS[i]) for i in used}, abs=1e-5
        )
        seen.add(round(answer["probability"], 4))
    assert len(seen) == 5
    assert answer["probability"] == pytest.approx(models.probability(exam, "ph_fusion"), abs=1e-5)
    assert answer["threshold"] == pytest.approx(0.45)
    assert answer["positive"] == (answer["probability"] >= 0.45)
    assert answer["warnings"] == []
    assert answer["model"] == {
        "name": "ph_fusion",
        "target": "ph",
        "source": str(models.checkpoints["ph_fusion"]),
        "trained_on": ["quillhaven"],
    }


def test_an_ecg_model_takes_an_ecg_alone(models: Models, ask: Ask) -> None:
    answer = json.loads(ask("lvsd", format="json", **files_of(models, models.exam(), "ecg")).out)
    assert set(answer) == {
        *("probability", "threshold", "positive", "inputs", "missing", "warnings", "model")
    }
    assert (answer["inputs"], answer["missing"]) == (["ecg"], [])
    # Its threshold was never set, and JSON has no nan.
    assert (answer["threshold"], answer["positive"]) == (None, None)
    said = ask("lvsd", **files_of(models, models.exam(), "ecg")).out
    assert said.startswith(f"Probability of lvsd: {answer['probability']:.3f} (")
    assert "The model has no operating threshold" in said


def test_what_a_doctor_reads(models: Models, ask: Ask) -> None:
    exam = models.exam()
    inputs = {**files_of(models, exam, "ecg"), "bnp": 25_000}
    found = json.loads(ask("ph_fusion", format="json", **inputs).out)
    low, high = models.ranges["BNP (pg/mL)"]
    probability, (ecg, bnp) = found["probability"], found["submodels"].values()
    assert ask("ph_fusion", **inputs).out.splitlines() == [
        f"Probability of ph: {probability:.3f} ({100 * probability:.0f} %)    "
        "from ECG and BNP; no chest X-ray",
        f"{'Positive' if probability >= 0.45 else 'Negative'} at the operating threshold of 0.450",
        f"ECG alone {ecg:.2f} · BNP alone {bnp:.2f}",
        f"! BNP 25,000 pg/mL is outside {low:.3g} to {high:,.0f}, the range of the training data",
        "Model ph_fusion, trained at quillhaven. Research software, not a medical device.",
    ]


def test_inputs_unlike_the_training_data_are_warned_of(
    models: Models, ask: Ask, tmp_path: Path
) -> None:
    def warnings(**inputs: object) -> list[str]:
        return json.loads(ask("ph_fusion", format="json", **inputs).out)["warnings"]

    for _, exam in models.manifest[models.manifest["institution"] == TRAINED_AT].iterrows():
        there = {"ecg": "ecg_path", "cxr": "cxr_path", "bnp": "bnp_pg_ml"}
        inputs = [input for input, column in there.items() if pd.notna(exam[column])]
        assert warnings(**files_of(models, exam, *inputs)) == []
    other = models.exam(institution="brindlefen")
    (rate,) = (w for w in warnings(**files_of(models, other, "ecg")) if "rate" in w)
    assert rate == "ECG sampling rate 250 Hz is not the training data's 500 Hz"

    record = wfdb.rdrecord(str((models.root / models.exam()["ecg_path"]).with_suffix("")))
    wfdb.wrsamp(
        "microvolts",
        fs=500,
        units=["mV"] * 12,
        sig_name=record.sig_name,
        d_signal=record.adc(),
        fmt=["16"] * 12,
        adc_gain=[1.0] * 12,
        baseline=[0] * 12,
        write_dir=str(tmp_path),
    )
    (amplitude,) = warnings(ecg=tmp_path / "microvolts.hea")
    assert amplitude.startswith("ECG amplitude ")
    Image.fromarray(np.tile(np.arange(0, 250, dtype=np.uint8), (40, 1))).save(tmp_path / "a.png")
    assert warnings(cxr=tmp_path / "a.png")[-1].startswith("Image height 40 pixels is outside ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bnp=300"], "Give the model"),
        (["model=a.ckpt"], "Give an input"),
        (["model=a.ckpt", "300"], "'300' is not of the form NAME=VALUE"),
        (["model=a.ckpt", "bnp=300", "bnp=200"], "bnp= is given twice"),
        (["model=a.ckpt", "bnp="], "bnp= has no value"),
        (["model=a.ckpt", "bnp=300", "format=xml"], "it is one of text, json, csv"),
        (["model=a.ckpt", "bnp=300", "manifest=a.csv"], "can't be given together"),
        (["model=a.ckpt", "bnp=300"], "a.ckpt: there is no such file"),
        (["model=0123", "bnp=300", "tracking.uri=sqlite:////nowhere/a.db"], "no database"),
        (["model=0123", "bnp=300", "tracking.uri=http://127.0.0.1:9"], "no server answers"),
        (["model=0123", "bnp=300", "tracking.uri=mlruns"], "http(s):// address or sqlite:///FILE"),
    ],
)
def test_a_wrong_word(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["age=70"], "ph_fusion does not read it"),
        (["bmp=300"], "Did you mean bnp=?"),
        (["tracking=x", "bnp=3"], "Did you mean tracking.uri=?"),
        (["bnp=300", "format=csv"], "format=csv is for a table"),
        (["manifest=none.csv"], "none.csv: cannot be read"),
        (["bnp=high"], "'high' is not a number"),
        (["bnp=300 pg/mL"], "has its unit in it; write pg/mL and no unit"),
        (["bnp=<10"], "is a limit, not a number"),
        (["bnp=-1"], "bnp=-1: -1 is below 0"),
        (["bnp=0.3"], "bnp=0.3: it is below 1: ng/mL?"),
        (["bnp=2e5"], "is above 100,000"),
        (["bnp=nan"], "'nan' is not a number; leave it out"),
        (["ecg=none.hea"], "none.hea"),
    ],
)
def test_a_wrong_word_for_a_model(
    refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in refused("ph_fusion", *arguments)


def test_what_a_model_does_not_read_is_refused(models: Models, refused: Callable[..., str]) -> None:
    given = files_of(models, models.exam(), "ecg", "cxr", "bnp")
    assert "lvsd does not read it, but ECG (ecg=). Leave bnp= out" in refused(
        "lvsd", ecg=given["ecg"], bnp=300
    )
    assert "Leave cxr= out" in refused("lvsd", ecg=given["ecg"], cxr=given["cxr"])
    assert "ECG, chest X-ray and BNP (ecg=, cxr=, bnp=). Leave age= out" in refused(
        "ph_fusion", bnp=300, age=70
    )
    assert "never mixed. Give bnp=" in refused("ph_fusion", ecg=given["ecg"], nt_probnp=300)
    assert "ph_bnp was trained on bnp=" in refused("ph_bnp", nt_probnp=300)


def test_age_and_sex_count_beside_the_marker_only(
    tmp_path: Path, ask: Ask, refused: Callable[..., str]
) -> None:
    input = Blood(
        "nt_probnp_pg_ml", age=True, sex=True, mean=(6.0, 70.0, 0.5), deviation=(1.5, 12.0, 0.5)
    )
    settings = settings_of("blood", "bnp", Fitted(input, {}))
    module = PHBNPClassifier(**{**settings, "features": 3})
    module.network.weight.data = torch.tensor([[1.0, 0.5, -0.25]])
    path = save(module, tmp_path)
    answer = json.loads(ask(path, format="json", nt_probnp=1000, age=82, sex="female").out)
    logit = (np.log(1000) - 6) / 1.5 + 0.5 * (82 - 70) / 12 - 0.25 * (0 - 0.5) / 0.5
    assert answer["probability"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    said = ask(path, nt_probnp=1000, age=82, sex="female").out
    assert "from NT-proBNP with age and sex\n" in said
    assert "give sex too" in refused(path, nt_probnp=1000, age=82)
    assert "give nt_probnp and sex too" in refused(path, age=82)
    for argument, value, message in (
        ("nt_probnp", "2e6", "is above 1,000,000"),
        ("sex", "F", "'F' is not female or male"),
        ("age", 700, "outside 0-120"),
    ):
        given = {"nt_probnp": 1000, "age": 82, "sex": "female", argument: value}
        assert message in refused(path, **given)
    assert "trained on nt_probnp=" in refused(path, bnp=300, age=82, sex="male")


def test_folders_pair_files_by_name_and_go_on_after_a_bad_one(
    models: Models, ask: Ask, refused: Callable[..., str], tmp_path: Path
) -> None:
    ecgs, films = tmp_path / "ecgs", tmp_path / "films"
    ecgs.mkdir(), films.mkdir()
    exam = models.exam()
    record = (models.root / exam["ecg_path"]).with_suffix("")
    for name in ("both", "torn"):
        header = record.with_suffix(".hea").read_text().replace(record.name, name)
        (ecgs / f"{name}.hea").write_text(header)
        shutil.copy(record.with_suffix(".dat"), ecgs / f"{name}.dat")
    (ecgs / "torn.dat").write_bytes(b"\0\0")
    shutil.copy(models.root / exam["cxr_path"], films / "both.dcm")
    shutil.copy(models.root / exam["cxr_path"], films / "1.2.840.5")
    (films / "README.txt").write_text("not a film")

    answer = ask("ph_fusion", ecg=ecgs, cxr=films, format="json")
    assert answer.status == 2
    assert answer.error == "error: 1 of 3 exams have no answer; their rows say why."
    rows = {row["exam_id"]: row for row in json.loads(answer.out)}
    assert {name: row.get("inputs") for name, row in rows.items()} == {
        "1.2.840.5": ["cxr"],
        "both": ["ecg", "cxr"],
        "torn": None,
    }
    alone = json.loads(ask("ph_fusion", format="json", **files_of(models, exam, "ecg", "cxr")).out)
    assert rows["both"]["probability"] == pytest.approx(alone["probability"], abs=1e-6)
    assert rows["torn"]["probability"] is None
    assert "torn.dat" in rows["torn"]["error"]

    answer = ask("ph_fusion", ecg=ecgs, cxr=films, format="csv")
    table = {row["exam_id"]: row for row in csv.DictReader(answer.out.splitlines())}
    assert list(table) == list(rows)
    assert float(table["both"]["probability"]) == rows["both"]["probability"]
    assert table["both"]["inputs"] == "ecg + cxr"
    assert float(table["both"]["ph_cxr"]) == rows["both"]["submodels"]["ph_cxr"]
    assert (table["torn"]["probability"], table["torn"]["error"]) == ("", rows["torn"]["error"])

    said = ask("ph_fusion", ecg=ecgs, cxr=films).out
    assert "ECG and chest X-ray" in said
    assert f"{rows['both']['probability']:.3f}" in said

    shutil.copy(films / "both.dcm", films / "both.png")
    assert "two chest X-rays of one name" in refused("ph_fusion", cxr=films)
    assert "no ECG (.hea) in this folder" in refused("ph_fusion", ecg=films)
    assert "Give a manifest" in refused("ph_fusion", ecg=ecgs, bnp=300)
    assert "Give a manifest" in refused("ph_fusion", ecg=ecgs, cxr=films / "both.dcm")


def test_a_recording_shorter_than_the_model_reads(
    models: Models, refused: Callable[..., str], tmp_path: Path
) -> None:
    wfdb.wrsamp(
        "short",
        fs=500,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        p_signal=np.random.default_rng(0).normal(size=(4000, 12)),
        fmt=["16"] * 12,
        write_dir=str(tmp_path),
    )
    assert "8 s long, and the model reads 10 s" in refused("ph_fusion", ecg=tmp_path / "short.hea")


def test_what_a_file_says_of_its_patient_is_not_repeated(
    models: Models, ask: Ask, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    exam = models.exam()
    dataset = pydicom.dcmread(models.root / exam["cxr_path"])
    planted = {
        "PatientName": "Okonkwo^Philomena",
        "PatientID": "MRN-4471902",
        "PatientBirthDate": "19470811",
        "InstitutionName": "Wexcombe Infirmary",
        "ReferringPhysicianName": "Brathwaite^Cuthbert",
    }
    for element, value in planted.items():
        setattr(dataset, element, value)
    dataset.save_as(tmp_path / "film.dcm")
    dataset.ViewPosition = "LL"
    dataset.save_as(tmp_path / "lateral.dcm")
    (tmp_path / "garbled.dcm").write_bytes((tmp_path / "film.dcm").read_bytes()[:-999])
    record = (models.root / exam["ecg_path"]).with_suffix("")
    header = record.with_suffix(".hea").read_text() + "# Name: Okonkwo, Philomena\n"
    (tmp_path / "film.hea").write_text(header)
    shutil.copy(record.with_suffix(".dat"), tmp_path)
    shown = ""
    for format in ("text", "json", "csv"):
        answer = ask("ph_fusion", ecg=tmp_path, cxr=tmp_path, format=format)
        assert answer.status == 2
        assert "frontal" in answer.out
        shown += answer.out + answer.error
    for film in ("film", "lateral", "garbled"):
        answer = ask("ph_fusion", cxr=tmp_path / f"{film}.dcm")
        shown += answer.out + answer.error
    assert "Probability of ph" in shown
    for secret in ("Okonkwo", "Philomena", "4471902", "19470811", "Wexcombe", "Brathwaite"):
        assert secret.lower() not in shown.lower()


@pytest.fixture(scope="module")
def tracked(
    models: Models, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MlflowClient, str, dict[str, str]]:
    """A tracking database with a run a model, each with its checkpoint."""
    folder = tmp_path_factory.mktemp("tracking")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("ph", (folder / "artifacts").as_uri())
    runs = {}
    for name in ("ph_ecg", "ph_bnp", "ph_fusion"):
        runs[name] = client.create_run(experiment, run_name=f"train {name}").info.run_id
        client.log_artifact(runs[name], str(models.checkpoints[name]), "checkpoint")
    return client, experiment, runs


def test_a_model_by_its_run_or_its_launch(
    tracked: tuple[MlflowClient, str, dict[str, str]],
    ask: Ask,
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, experiment, runs = tracked
    where = {"tracking.uri": client.tracking_uri, "bnp": 300}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def name_of(model: str) -> str:
        return json.loads(ask(model, format="json", **where).out)["model"]["name"]

    def launch(*models: str, fusion: str | None = None, **more: str) -> str:
        tags = {f"model.{name}": runs[name] for name in models} | more
        run = client.create_run(experiment, tags=tags | ({"fusion": fusion} if fusion else {}))
        return run.info.run_id

    assert name_of(runs["ph_bnp"]) == "ph_bnp"
    assert name_of(launch("ph_bnp")) == "ph_bnp"
    assert name_of(launch("ph_ecg", "ph_bnp", "ph_fusion", fusion="ph_fusion")) == "ph_fusion"
    several = refused(launch("ph_ecg", "ph_bnp"), **where)
    assert f"model={runs['ph_ecg']} is ph_ecg\n" in several
    assert f"model={runs['ph_bnp']} is ph_bnp" in several
    empty = launch()
    assert "this run has no checkpoint" in refused(empty, **where)
    client.log_batch(runs["ph_bnp"], tags=[RunTag("mlflow.parentRunId", empty)])
    assert f"model={runs['ph_bnp']} is train ph_bnp" in refused(empty, **where)
    elsewhere = launch(**{"model.ph_cxr": "0" * 32})
    assert "its ph_cxr comes from run 000" in refused(elsewhere, **where)
    assert "there is no such run" in refused("f" * 32, **where)
    assert not list(tmp_path.iterdir())


def test_a_registered_model(
    tracked: tuple[MlflowClient, str, dict[str, str]],
    models: Models,
    ask: Ask,
    refused: Callable[..., str],
) -> None:
    client, _, runs = tracked
    where = {"tracking.uri": client.tracking_uri, "bnp": 300}
    assert "there is none" in refused("blood", **where)
    client.create_registered_model("blood")
    assert "There are none of this name" in refused("blood", **where)
    for name in ("ph_fusion", "ph_bnp"):
        client.create_model_version("blood", f"runs:/{runs[name]}/checkpoint", runs[name])
    client.set_registered_model_alias("blood", "fused", "1")
    for model, name in {
        "blood": "ph_bnp",
        "blood/1": "ph_fusion",
        "blood@fused": "ph_fusion",
        "models:/blood/2": "ph_bnp",
        "models:/blood@fused": "ph_fusion",
    }.items():
        found = json.loads(ask(model, format="json", **where).out)["model"]
        assert (found["name"], found["source"]) == (name, model)
    assert "blood/1, blood/2, blood@fused" in refused("blood/3", **where)
    assert "no such version" in refused("blood@none", **where)
    assert "there are blood" in refused("bloody", **where)
    # Where what was registered is gone, the run that it came from still has it.
    client.create_model_version("blood", "/nowhere/model.ckpt", runs["ph_fusion"])
    assert json.loads(ask("blood", format="json", **where).out)["model"]["name"] == "ph_fusion"
    client.create_model_version("blood", "/nowhere/model.ckpt")
    assert "version 4 holds 0 checkpoints" in refused("blood", **where)


def test_a_file_that_is_no_checkpoint(
    models: Models, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "text.ckpt").write_text("weights")
    assert "text.ckpt: not a checkpoint that can be read" in refused(
        tmp_path / "text.ckpt", bnp=300
    )
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "not a checkpoint of a model that this software trained" in refused(
        tmp_path / "other.ckpt", bnp=300
    )


def test_a_submodel_that_gives_no_number_is_not_taken_for_a_missing_input(
    models: Models, refused: Callable[..., str], tmp_path: Path
) -> None:
    checkpoint = torch.load(models.checkpoints["ph_fusion"], weights_only=True)
    checkpoint["state_dict"]["submodels.ph_bnp.network.weight"].fill_(torch.nan)
    torch.save(checkpoint, tmp_path / "broken.ckpt")
    inputs = {**files_of(models, models.exam(), "ecg"), "bnp": 300}
    assert "output is not a number" in refused(tmp_path / "broken.ckpt", **inputs)
