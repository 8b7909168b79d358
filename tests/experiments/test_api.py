"""Models from Python: `load_model`, what MLflow loads of the same checkpoints, and the command."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mean_network import MeanNetwork
from numpy.typing import NDArray
from PIL import Image
from places import REPOSITORY
from tiny_models import SUBMODELS, Models, made_models, save, settings_of

from datamodules.errors import InputError
from datamodules.inputs.input import Fitted
from datamodules.manifest import read_manifest
from datamodules.radiographs import read_radiograph
from datamodules.recordings import read_recording
from experiments import load_model
from experiments.inference import LoadedModel, Prediction
from experiments.predict import main
from experiments.serving import describe
from lightning_modules.classifier import Classifier


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return made_models(tmp_path_factory.mktemp("api"))


@pytest.fixture
def loaded(models: Models) -> Callable[[str], LoadedModel]:
    return lambda name: load_model(models.checkpoints[name])


@pytest.fixture
def ecg(models: Models) -> Path:
    return models.root / str(models.exam()["ecg_path"])


@pytest.fixture
def signal(ecg: Path) -> NDArray[np.float64]:
    """In mV, at 500 Hz."""
    return read_recording(ecg).signal_mv


def served(models: Models, name: str, folder: Path) -> Any:
    """What MLflow loads of a checkpoint's folder."""
    place = folder / name
    place.mkdir()
    shutil.copy(models.checkpoints[name], place / "model.ckpt")
    describe(load_model(models.checkpoints[name]), place, "model.ckpt")
    return mlflow.pyfunc.load_model(str(place))


def test_importing_it_loads_no_torch() -> None:
    told = "import sys, experiments; experiments.load_model; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_recording_as_a_file_and_as_an_array(
    models: Models, loaded: Callable[[str], LoadedModel], ecg: Path, signal: NDArray[np.float64]
) -> None:
    model = loaded("ph_ecg")
    expected = models.probability(models.exam(), "ph_ecg")
    by_file = model.predict(ecg)
    assert by_file.probability == pytest.approx(expected, abs=1e-5)
    assert by_file == model.predict(str(ecg)) == model.predict(ecg=ecg)
    assert by_file.threshold == pytest.approx(0.45)
    assert by_file.positive is (by_file.probability >= 0.45)
    for array in (signal, signal.tolist(), torch.tensor(signal), signal.astype(np.float32)):
        given = model.predict(array, sampling_rate_hz=500)
        assert given.probability == pytest.approx(by_file.probability, abs=1e-6)
        assert given.warnings == ()
    np.testing.assert_allclose(
        model.embed(signal, sampling_rate_hz=500), model.embed(ecg), atol=1e-6
    )
    # 250 Hz is another recording of the same heart, and unlike the training data.
    half = model.predict(signal[:, ::2], sampling_rate_hz=250)
    assert half.probability == pytest.approx(by_file.probability, abs=0.01)
    assert "ECG sampling rate 250 Hz is not the training data's 500 Hz" in half.warnings


def test_an_embedding_is_what_the_last_layer_sees(
    loaded: Callable[[str], LoadedModel], ecg: Path
) -> None:
    model = loaded("two_ecg")
    embedding = model.embed(ecg)
    assert (embedding.dtype, embedding.shape) == (np.dtype(np.float32), (16,))
    last: Any = model.module.network.head
    logits = last.weight.detach().numpy() @ embedding + last.bias.detach().numpy()
    said = [answer.probability for answer in model.predict(ecg).labels.values()]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), said, atol=1e-6)


def test_an_embedding_of_a_pretrained_encoder_is_the_mean_of_its_patches(
    loaded: Callable[[str], LoadedModel], ecg: Path
) -> None:
    model = loaded("mae")
    exam = model.exam(ecg, None, {})
    prepared, _ = model._prepared(exam)
    vit: Any = model.module.network.encoder
    with torch.inference_mode():
        tokens = vit.forward_features(prepared["mae"])  # timm's own: class token, then patches
    np.testing.assert_allclose(model.embed(ecg), tokens[0, 1:].mean(0).numpy(), atol=1e-6)
    with pytest.raises(InputError, match="is a pretrained encoder, which answers nothing yet"):
        model.predict(ecg)


def test_a_film(models: Models, loaded: Callable[[str], LoadedModel], tmp_path: Path) -> None:
    model = loaded("ph_cxr")
    film = models.root / str(models.exam()["cxr_path"])
    pixels = read_radiograph(film).pixels
    by_file = model.predict(film)
    assert by_file.probability == pytest.approx(
        models.probability(models.exam(), "ph_cxr"), abs=1e-5
    )
    assert model.predict(pixels).probability == by_file.probability
    assert model.embed(cxr=film).shape == (96,)
    np.testing.assert_array_equal(model.embed(cxr=film), model.embed(pixels))
    for greys in (
        np.rint(255 * pixels).astype(np.uint8),
        np.rint(60000 * pixels).astype(np.uint16),
    ):
        Image.fromarray(greys).save(tmp_path / "film.png")
        expected = model.predict(tmp_path / "film.png").probability
        assert model.predict(greys).probability == expected
        assert model.predict(greys.tolist()).probability == expected
        assert model.predict(greys.astype(np.float64).tolist()).probability == expected


def test_a_blood_test_and_a_fusion(
    models: Models, loaded: Callable[[str], LoadedModel], ecg: Path, signal: NDArray[np.float64]
) -> None:
    exam = models.exam()
    value, film = exam["bnp_pg_ml"], models.root / str(exam["cxr_path"])
    blood, fusion = loaded("ph_bnp"), loaded("ph_fusion")
    assert blood.predict(value).probability == pytest.approx(
        models.probability(exam, "ph_bnp"), abs=1e-5
    )
    given = fusion.predict(ecg=signal, cxr=film, bnp=value, sampling_rate_hz=500)
    assert given.probability == pytest.approx(models.probability(exam, "ph_fusion"), abs=1e-5)
    assert {name: of["ph"].probability for name, of in given.submodels.items()} == pytest.approx(
        {name: models.probability(exam, name) for name in SUBMODELS.values()}, abs=1e-5
    )
    alone = fusion.predict(bnp=value, ecg=None)
    assert (alone.inputs, alone.missing) == (("bnp",), ("ecg", "cxr"))
    assert fusion.embed(bnp=value).shape == (8,)
    assert not np.allclose(fusion.embed(bnp=value), fusion.embed(bnp=value, cxr=film))
    with pytest.raises(InputError, match="ph_bnp: a linear model has no embedding"):
        blood.embed(value)


def test_several_labels(
    models: Models, loaded: Callable[[str], LoadedModel], ecg: Path, capsys: Any
) -> None:
    model = loaded("two_ecg")
    found = model.predict(ecg)
    assert list(found.labels) == ["ph", "lvsd"]
    assert found.labels["ph"].positive is (found.labels["ph"].probability >= 0.45)
    assert (found.labels["lvsd"].threshold, found.labels["lvsd"].positive) == (None, None)
    for name in ("probability", "threshold", "positive", "estimate"):
        with pytest.raises(InputError, match=rf"2 questions.*\.labels\['ph'\]\.{name}"):
            getattr(found, name)
    checkpoint = models.checkpoints["two_ecg"]
    assert main([f"model={checkpoint}", f"ecg={ecg}", "format=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "labels": {label: dict(answer.fields) for label, answer in found.labels.items()},
        "inputs": ["ecg"],
        "missing": [],
        "warnings": [],
        "model": {**found.model, "source": str(checkpoint)},
    }
    main([f"model={checkpoint}", f"ecg={ecg}"])
    ph, lvsd = (answer.probability for answer in found.labels.values())
    called = "positive" if ph >= 0.45 else "negative"
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "From ECG",
        f"Probability of ph: {ph:.3f} ({100 * ph:.0f} %), {called} at the operating threshold of "
        "0.450",
        f"Probability of lvsd: {lvsd:.3f} ({100 * lvsd:.0f} %), the model has no operating "
        "threshold to call it positive or negative by",
        "Model two_ecg, trained at quillhaven. Research software, not a medical device.",
    ]


def test_a_table_of_several_labels_has_a_row_a_label(
    models: Models, loaded: Callable[[str], LoadedModel], capsys: Any
) -> None:
    manifest = models.root / "quillhaven.csv"
    arguments = [f"model={models.checkpoints['two_fusion']}", f"manifest={manifest}"]
    status = main([*arguments, "format=csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    exam = models.exam()
    found = loaded("two_fusion").predict(ecg=models.root / exam["ecg_path"], bnp=exam["bnp_pg_ml"])
    mine = {row["label"]: row for row in rows if row["exam_id"] == exam["exam_id"]}
    assert list(mine) == ["ph", "lvsd"]
    for label, row in mine.items():
        assert float(row["probability"]) == pytest.approx(found.labels[label].probability, abs=1e-6)
        alone = found.submodels["two_ecg"][label].probability
        assert float(row["two_ecg"]) == pytest.approx(alone, abs=1e-6)
    failed = [row for row in rows if row["error"]]
    assert {(row["label"], row["probability"]) for row in failed} <= {("", "")}
    assert status == (2 if failed else 0)
    main([*arguments, "format=json"])
    told = {row["exam_id"]: row for row in json.loads(capsys.readouterr().out)}
    assert told[exam["exam_id"]]["submodels"]["two_bnp"]["lvsd"]["probability"] == pytest.approx(
        found.submodels["two_bnp"]["lvsd"].probability, abs=1e-6
    )
    main(arguments)
    shown = capsys.readouterr().out
    assert "Probability of ph, lvsd" in shown
    assert f"{found.labels['lvsd'].probability:.3f}" in shown


def test_a_number(
    models: Models, loaded: Callable[[str], LoadedModel], ecg: Path, capsys: Any
) -> None:
    model = loaded("lvef")
    found = model.predict(ecg)
    assert 30 < found.estimate < 80
    with pytest.raises(InputError, match="gives no probability, but estimate"):
        _ = found.probability
    checkpoint = models.checkpoints["lvef"]
    main([f"model={checkpoint}", f"ecg={ecg}"])
    assert capsys.readouterr().out.startswith(
        f"Estimate of lvef_percent: {found.estimate:.1f} %    from ECG\nModel lvef"
    )
    main([f"model={checkpoint}", f"ecg={ecg}", "format=json"])
    told = json.loads(capsys.readouterr().out)
    assert told["estimate"] == pytest.approx(found.estimate)
    assert set(told) == {"estimate", "inputs", "missing", "warnings", "model"}
    main([f"model={checkpoint}", f"ecg={ecg.parent}", "format=csv"])
    header = capsys.readouterr().out.splitlines()[0]
    assert header == "exam_id,estimate,inputs,missing,warnings,error"


def test_what_a_model_is(loaded: Callable[[str], LoadedModel]) -> None:
    told = loaded("two_fusion").about
    assert json.loads(json.dumps(told)) == told
    assert {k: told[k] for k in ("name", "labels", "task", "institutions", "exams")} == {
        "name": "two_fusion",
        "labels": ["ph", "lvsd"],
        "task": "binary",
        "institutions": ["quillhaven"],
        "exams": 9,
    }
    assert told["thresholds"] == pytest.approx({"ph": 0.45, "lvsd": 0.45})
    assert told["inputs"]["ecg"].startswith("12 leads x 10 s at 100 Hz")
    assert told["submodels"] == {"two_ecg": "ecg", "two_bnp": "bnp"}
    assert loaded("mae").about["labels"] == []


def changed(signal: NDArray[np.float64], **changes: Any) -> NDArray[np.float64]:
    signal = signal.copy()
    for lead, value in changes.items():
        signal[int(lead[1:])] = value
    return signal


@pytest.mark.parametrize(
    ("change", "rate", "message"),
    [
        (lambda s: s.T, 500, r"\(5000, 12\), and a 12-lead ECG \(12, samples\): transpose it"),
        (lambda s: s[:8], 500, r"\(8, 5000\).*I, II, III, aVR.*in this order"),
        (lambda s: s[0], 500, r"the array is \(5000,\)"),
        (lambda s: s[:, :4000], 500, "are 8 s, and the model reads 10 s"),
        (lambda s: s, 1000, "5000 samples at 1000 Hz are 5 s, and the model reads 10 s"),
        (lambda s: s, None, "no sampling rate of its own. Give sampling_rate_hz="),
        (lambda s: s, 0, "sampling_rate_hz=0: give a whole number of Hz"),
        (lambda s: s, 0.5, "sampling_rate_hz=0.5: give a whole number of Hz"),
        (lambda s: s, 499.5, "give a whole number of Hz"),
        (lambda s: s, float("nan"), "give a whole number of Hz"),
        (lambda s: s, "fast", "give a whole number of Hz"),
        (lambda s: changed(s, v3=np.nan), 500, "5000 of 60000 values are NaN or infinite"),
        (lambda s: changed(s, v6=0.25), 500, "flat lead V1: every sample has the same value"),
        (lambda s: 1000 * s, 500, "is it in microvolts. Divide it by 1000: mV are read"),
        (lambda s: s / 1000, 500, "is it in volts. Multiply it by 1000"),
        (lambda s: [[1.0, 2.0], [1.0]] * 6, 500, "rows are not of one length, or not all numbers"),
        (lambda s: s.astype(str), 500, "is not of real numbers"),
        (lambda s: s + 0j, 500, "is not of real numbers"),
    ],
)  # fmt: skip
def test_an_ecg_that_cannot_be(
    loaded: Callable[[str], LoadedModel],
    signal: NDArray[np.float64],
    change: Callable[[Any], Any],
    rate: Any,
    message: str,
) -> None:
    for ask in (loaded("ph_ecg").predict, loaded("mae").embed):
        with pytest.raises(InputError, match=message):
            ask(change(signal), sampling_rate_hz=rate)


@pytest.mark.parametrize(
    ("film", "message"),
    [
        (np.zeros((64, 64, 3)), "in colour: give one channel of greys"),
        (np.zeros(64), r"\(64,\), not \(height, width\)"),
        (np.full((64, 64), 7), "every pixel has the same value"),
        (np.eye(20), "20 x 20 pixels, fewer than 32 on a side"),
        (np.eye(64) * np.nan, "values are NaN or infinite"),
        (np.eye(64) - 0.5, "run from -0.5 to 0.5. Give greys from 0 .black. to 1"),
        (np.eye(64) * 1.5, "run from 0 to 1.5"),
        (np.eye(64, dtype=np.int64) * 70000, "run from 0 to 70000"),
        (np.eye(64, dtype=bool), "is not of real numbers"),
    ],
)
def test_a_film_that_cannot_be(
    loaded: Callable[[str], LoadedModel], film: NDArray[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        loaded("ph_cxr").predict(film)


def test_what_cannot_be_asked(
    models: Models, loaded: Callable[[str], LoadedModel], ecg: Path, signal: NDArray[np.float64]
) -> None:
    one, fusion, blood = loaded("ph_ecg"), loaded("ph_fusion"), loaded("ph_bnp")
    for ask, message in (
        (lambda: one.predict(), "Give an exam: ecg="),
        (lambda: fusion.predict(ecg), "give each by its name, ecg=, cxr=, bnp="),
        (lambda: one.predict(ecg, bnp=300), "give each by its name, ecg="),
        (lambda: one.predict(ecg=ecg, bnp=300), "bnp=300: ph_ecg does not read it"),
        (lambda: fusion.predict(egc=signal), r"^egc: ph_fusion does not .* Did you mean ecg="),
        (lambda: one.predict(ecg, sampling_rate_hz=500), "belongs to an array; a file states"),
        (lambda: one.predict(ecg.with_name("none.hea")), "none.hea"),
        (lambda: blood.predict(-1), "bnp=-1.*is below 0"),
        (lambda: blood.predict(float("nan")), "bnp=nan is not a number"),
        (lambda: blood.predict("a lot"), "'a lot' is not a number"),
        (lambda: load_model(ecg.with_name("none.ckpt")), "there is no such file"),
    ):
        with pytest.raises(InputError, match=message):
            ask()  # type: ignore[no-untyped-call]


def test_a_network_of_ones_own(
    models: Models, ecg: Path, tmp_path: Path, loaded: Callable[[str], LoadedModel]
) -> None:
    input = loaded("ph_ecg").inputs["ecg"]
    settings = settings_of("mine", "ecg", Fitted(input, {}))
    settings["network"] = {
        "_target_": f"{MeanNetwork.__module__}.MeanNetwork",
        "settings": {"width": 4},
        "shape": input.shape,
    }
    path = save(Classifier(**settings), tmp_path)
    with pytest.raises(InputError, match=r"allow=\[mean_network\]"):
        load_model(path)
    model = load_model(path, allow=["mean_network"])
    assert 0 < model.predict(ecg).probability < 1
    with pytest.raises(InputError, match="mine: MeanNetwork has no embedding: it needs forward_"):
        model.embed(ecg)
    describe(model, tmp_path, path.name)
    with pytest.raises(InputError, match=r"allow=\[mean_network\]"):
        mlflow.pyfunc.load_model(str(tmp_path))


def numbers(prediction: Prediction) -> list[float]:
    return [answer.number for answer in prediction.labels.values()]


@pytest.mark.parametrize("name", ["ph_ecg", "ph_cxr", "ph_bnp", "two_fusion", "lvef", "mae"])
def test_mlflow_loads_it(
    models: Models, loaded: Callable[[str], LoadedModel], tmp_path: Path, name: str
) -> None:
    model, found = loaded(name), served(models, name, tmp_path)
    needed = {"ecg_path": "ecg", "cxr_path": "cxr", "bnp_pg_ml": "bnp"}
    exam = models.exam()
    columns = [column for column, argument in needed.items() if argument in model.arguments]
    row = {column: exam[column] for column in columns}
    row |= {c: str(models.root / row[c]) for c in columns if c.endswith("_path")}
    given = {needed[column]: value for column, value in row.items()}
    table = pd.DataFrame([row, row], index=["a", "b"])
    if name != "mae":
        said = found.predict(table)
        labels = len(model.labels)
        assert list(said.index) == ["a"] * labels + ["b"] * labels
        column = "estimate" if name == "lvef" else "probability"
        expected = numbers(model.predict(**given)) * 2
        np.testing.assert_allclose(said[column], expected, atol=1e-6)
        assert ("label" in said) == (labels > 1)
    if name != "ph_bnp":
        embedded = found.predict(table, params={"embeddings": True})
        assert list(embedded.dtypes.unique()) == [np.float32]
        np.testing.assert_allclose(embedded.to_numpy()[1], model.embed(**given), atol=1e-6)
    example = found.input_example
    assert len(found.predict(example)) == max(1, len(model.labels))
    signature = found.metadata.signature
    assert all(not column.required for column in signature.inputs)
    assert set(example) <= set(signature.inputs.input_names())
    place = tmp_path / name
    assert sum(file.stat().st_size for file in place.iterdir() if file.suffix != ".ckpt") < 200_000
    needs = (place / "requirements.txt").read_text()
    assert "http" not in needs
    assert "torch==" in needs or not needs.strip()
    assert yaml.safe_load((place / "MLmodel").read_text())["flavors"]["python_function"][
        "data"
    ] == "model.ckpt"  # fmt: skip


def test_mlflow_takes_arrays(
    models: Models,
    loaded: Callable[[str], LoadedModel],
    tmp_path: Path,
    ecg: Path,
    signal: NDArray[np.float64],
) -> None:
    found, model = served(models, "ph_fusion", tmp_path), loaded("ph_fusion")
    film = read_radiograph(models.root / str(models.exam()["cxr_path"])).pixels
    table = pd.DataFrame(
        {
            "ecg": [signal.tolist(), None, signal],
            "ecg_sampling_rate_hz": [500, None, 500.0],
            "cxr": [film.tolist(), np.rint(255 * film).astype(int).tolist(), None],
            "bnp_pg_ml": [None, 300, 25],
            "other": ["x", "y", "z"],
        }
    )
    said = found.predict(table)
    expected = [
        model.predict(ecg=ecg, cxr=film),
        model.predict(cxr=np.rint(255 * film).astype(int), bnp=300),
        model.predict(ecg=ecg, bnp=25),
    ]
    np.testing.assert_allclose(said["probability"], [of.probability for of in expected], atol=1e-6)
    assert said["positive"].tolist() == [of.positive for of in expected]
    with pytest.raises(InputError, match="row 1: there is no ECG and no chest X-ray and no BNP"):
        found.predict(table.assign(cxr=None, bnp_pg_ml=[1.0, None, 25.0]))
    with pytest.raises(InputError, match="row 0: ecg: .* transpose it"):
        found.predict(pd.DataFrame({"ecg": [signal.T.tolist()], "ecg_sampling_rate_hz": [500]}))
    with pytest.raises(InputError, match="row 0: ecg and ecg_path are both given"):
        found.predict(pd.DataFrame({"ecg": [signal.tolist()], "ecg_path": [str(ecg)]}))


def test_the_command_writes_embeddings(
    models: Models, loaded: Callable[[str], LoadedModel], tmp_path: Path, capsys: Any
) -> None:
    manifest, file = models.root / "quillhaven.csv", tmp_path / "embeddings.parquet"

    def run(model: str, *arguments: str) -> tuple[int, str, str]:
        status = main([f"model={models.checkpoints[model]}", f"embeddings={file}", *arguments])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    status, out, _ = run("ph_ecg", f"manifest={manifest}")
    exams = read_manifest(manifest)
    there = exams[exams["ecg_path"].notna()]
    table = pd.read_parquet(file)
    assert status == (2 if len(there) < len(exams) else 0)
    assert out == f"{len(there)} embeddings of 16 numbers are in {file}\n"
    assert list(table) == ["exam_id", *(f"e{i}" for i in range(16))]
    assert set(table.dtypes.iloc[1:]) == {np.dtype(np.float32)}
    assert table["exam_id"].tolist() == there["exam_id"].tolist()
    model = loaded("ph_ecg")
    for row, path in zip(table.to_numpy(), there["ecg_path"], strict=True):
        alone = model.embed(models.root / path)
        np.testing.assert_allclose(row[1:].astype(np.float32), alone, atol=1e-6)

    status, out, error = run("mae", f"ecg={(models.root / there['ecg_path'].iloc[0]).parent}")
    assert (status, len(pd.read_parquet(file))) == (0, 24), error
    before = file.read_bytes()
    broken = tmp_path / "ecgs"
    broken.mkdir()
    (broken / "torn.hea").write_text("torn 12 500 5000\n")
    for model_name, arguments, message in (
        ("ph_bnp", [f"manifest={manifest}"], "a linear model has no embedding"),
        ("ph_ecg", [f"ecg={broken}"], "none of 1 exams has an embedding:\n  torn: "),
        ("ph_ecg", [f"ecg={models.root / there['ecg_path'].iloc[0]}"], "is of a table"),
        ("ph_ecg", [f"manifest={manifest}", "format=json"], "leave format= out"),
    ):
        status, out, error = run(model_name, *arguments)
        assert (status, out) == (2, "")
        assert message in error
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ecgs", "embeddings.parquet"]
    bad = main([f"model={models.checkpoints['mae']}", f"manifest={manifest}", "embeddings=a.csv"])
    assert (bad, "call it FILE.parquet" in capsys.readouterr().err) == (2, True)
    nowhere = main(
        [
            f"model={models.checkpoints['mae']}",
            f"manifest={manifest}",
            f"embeddings={tmp_path}/none/a.parquet",
        ]
    )
    assert (nowhere, "there is no folder" in capsys.readouterr().err) == (2, True)
    assert main([f"model={models.checkpoints['mae']}", f"manifest={manifest}"]) == 2
    assert "is a pretrained encoder" in capsys.readouterr().err
