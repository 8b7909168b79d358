"""What a person adds from a folder of his or her own: an input, a network, a model, a study."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import TINY, TINY_COHORT, TINY_PH, TINY_PH_COHORT, Launch, launch
from places import REPOSITORY
from sklearn.linear_model import LogisticRegression

from datamodules.errors import InputError
from datamodules.simulation import simulate_cohort
from experiments.config import compose_config
from experiments.plan import plan_of
from experiments.stages.cohort import simulated_institutions

OWN = Path(__file__).parent / "outside"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def own(place: Path) -> Path:
    """A folder of configurations and code that is not in the repository."""
    shutil.copytree(OWN, place / "own")
    return place / "own"


def predict(own: Path, run: Launch, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "experiments.predict", f"model={run.run}", *arguments),
            *(f"tracking.uri={run.uri}", "--config-dir", str(own)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )


def spirometries(place: Path) -> Path:
    """The simulated PH cohort with a spirometry of three patients in four: low where PH is."""
    settings = ["experiment=ph", f"cohort.root={place}/simulated", *TINY_PH_COHORT, *TINY_PH]
    config = compose_config(settings)
    made = place / "simulated"
    simulate_cohort(simulated_institutions(config), made, seed=config.cohort.seed, workers=1)
    root = place / "hospitals"
    shutil.copytree(made, root)
    rng = np.random.default_rng(5)
    for file in root.glob("*.csv"):
        table = pd.read_csv(file, dtype="str")
        high = table["pasp_mmhg"].astype(float) >= 45
        fev1 = (3.0 - 0.8 * high + 0.5 * rng.normal(size=len(table))).clip(0.5, 6)
        known = rng.random(len(table)) < 0.75
        table["fev1_l"] = fev1.round(2).where(known)
        table["fvc_l"] = (1.3 * fev1).round(2).where(known)
        table.to_csv(file, index=False)
    return root


@pytest.fixture(scope="module")
def fused(place: Path, own: Path) -> Launch:
    return launch(
        place,
        "--config-dir",
        str(own),
        "experiment=ph_spirometry",
        "cohort=manifests",
        f"cohort.root={spirometries(place)}",
        "cohort.development=[quillhaven,ambervault]",
        *TINY_PH,
    )


def test_a_fourth_input_is_fused_with_one_file_and_one_yaml(fused: Launch) -> None:
    assert fused.status == 0, fused.output + fused.errors
    models = set(fused.predictions["model"])
    assert {"ph_ecg", "ph_cxr", "ph_bnp", "ph_spirometry", "ph_fusion"} <= models
    subsets = pd.read_parquet(fused.artifact("subsets/predictions.parquet"))["model"].unique()
    assert len(subsets) == 15
    assert "ecg + cxr + bnp + spirometry" in subsets
    report = fused.artifact("report.html").read_text()
    assert "FEV1 and FVC, standardised on development training exams" in report
    assert "with spirometry" in fused.artifact("cohort/flow.csv").read_text()


def test_its_model_is_scikit_learns_on_the_fourth_input(fused: Launch, place: Path) -> None:
    tables = {name: pd.read_csv(place / "hospitals" / f"{name}.csv").dropna(subset="fev1_l")
              for name in ("quillhaven", "ambervault", "thistlemere")}  # fmt: skip
    predicted = fused.predictions.query("model == 'ph_spirometry'")
    developed = pd.concat([tables["quillhaven"], tables["ambervault"]])
    held_out = predicted[predicted["split"] != "external"]["exam_id"]
    known = developed.dropna(subset=["pasp_mmhg"])
    target = (known["pasp_mmhg"] >= 45) | (known["tr_velocity_m_s"] > 2.8)
    trained = ~known["exam_id"].isin(held_out)
    values = known.loc[trained, ["fev1_l", "fvc_l"]]
    scale, centre = values.std(ddof=0), values.mean()
    reference = LogisticRegression().fit((values - centre) / scale, target[trained])
    external = predicted[predicted["institution"] == "thistlemere"].set_index("exam_id")
    exams = tables["thistlemere"].set_index("exam_id").loc[external.index, ["fev1_l", "fvc_l"]]
    logits = reference.decision_function((exams - centre) / scale)
    # Ours is standardised on unlabelled exams too, which the ridge penalty sees.
    assert np.corrcoef(logits, external["logit"])[0, 1] > 0.999


def test_predict_reads_the_fourth_input_where_it_is_allowed(fused: Launch, own: Path) -> None:
    alone = predict(own, fused, "fev1=1.9", "fvc=2.6", "format=json")
    assert alone.returncode == 2
    assert "it names spirometry.Spirometry" in alone.stderr
    assert "allow=[spirometry]" in alone.stderr
    allowed = predict(own, fused, "fev1=1.9", "fvc=2.6", "allow=[spirometry]", "format=json")
    assert allowed.returncode == 0, allowed.stderr
    answer = json.loads(allowed.stdout)
    assert answer["inputs"] == ["spirometry"]
    assert answer["missing"] == ["ecg", "cxr", "bnp"]
    assert 0 < answer["probability"] < 1
    wrong = predict(own, fused, "fev1=1900", "fvc=2.6", "allow=[spirometry]")
    assert wrong.returncode == 2
    assert "fev1=1900" in wrong.stderr
    assert "write litres" in wrong.stderr


def test_a_bad_value_of_the_fourth_input_is_named(place: Path, own: Path, fused: Launch) -> None:
    root = place / "bad"
    shutil.copytree(place / "hospitals", root)
    table = pd.read_csv(root / "larkspire.csv", dtype="str")
    table.loc[3, "fev1_l"] = "2600"
    table.to_csv(root / "larkspire.csv", index=False)
    done = launch(
        place, "--config-dir", str(own), "experiment=ph_spirometry", "cohort=manifests",
        f"cohort.root={root}", "cohort.development=[quillhaven,ambervault]", *TINY_PH,
    )  # fmt: skip
    assert done.status == 2
    assert (
        "larkspire.csv, line 5, column fev1_l: 2600 is outside 0.1-8; write litres" in done.errors
    )


def test_an_input_whose_columns_no_manifest_has(place: Path, own: Path, fused: Launch) -> None:
    done = launch(
        place, "--config-dir", str(own), "experiment=ph_spirometry",
        f"cohort.root={place}/simulated", *TINY_PH_COHORT, *TINY_PH,
    )  # fmt: skip
    assert done.status == 2
    assert "inputs.spirometry: no exam of any institution has fev1_l and fvc_l" in done.errors


def test_a_study_a_network_and_a_model_of_ones_own(place: Path, own: Path) -> None:
    done = launch(
        place, "--config-dir", str(own), "experiment=mine", "network=mean",
        "models.other={network: ${baseline}, finetune: {max_steps: 4}}",
        f"cohort.root={place}/cohort", *TINY_COHORT,
        *(setting for setting in TINY if not setting.startswith(("network=", "network."))),
    )  # fmt: skip
    assert done.status == 0, done.errors
    assert set(done.predictions["model"]) == {"mine", "other"}
    runs = {run.data.tags.get("model"): run for run in done.children if "model" in run.data.tags}
    assert runs["other"].data.params["max_steps"] == "4"
    children = {run.info.run_name for run in done.children}
    assert "finetune mean from scratch · mine" in children
    again = launch(
        place, "--config-dir", str(own), "experiment=mine", "network=mean",
        f"cohort.root={place}/cohort", *TINY_COHORT,
        *(setting for setting in TINY if not setting.startswith(("network=", "network."))),
    )  # fmt: skip
    assert "mine: reused from run" in again.output
    (own / "mean_network.py").write_text(
        (own / "mean_network.py").read_text().replace("nn.ReLU()", "nn.Tanh()")
    )
    changed = launch(
        place, "--config-dir", str(own), "experiment=mine", "network=mean",
        f"cohort.root={place}/cohort", *TINY_COHORT,
        *(setting for setting in TINY if not setting.startswith(("network=", "network."))),
    )  # fmt: skip
    assert changed.status == 0, changed.errors
    assert "mine: reused" not in changed.output


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["models.mine={network: {name: a, _target_: nowhere.Net}}"],
         "models.mine: _target_=nowhere.Net can't be imported (No module named 'nowhere')"),
        (["models.mine={network: {name: a, _target_: torch.nn.Nothing}}"],
         "models.mine: _target_=torch.nn.Nothing: torch.nn has no Nothing"),
        (["models.mine={input: egc, network: '${network}'}"],
         "models.mine.input=egc: it is one of ecg, cxr, bnp (inputs). Did you mean ecg?"),
        (["inputs.spirometry={_target_: datamodules.manifest.Column}"],
         "inputs.spirometry: _target_=datamodules.manifest.Column is not an Input"),
        (["inputs.other={_target_: datamodules.inputs.blood.Blood, marker: x, age: no, sex: no}"],
         "inputs.other: marker 'x' is not one of bnp_pg_ml, nt_probnp_pg_ml"),
        (["models.mine={classifier: lightning_modules.fusion.Fusion, network: '${network}'}"],
         "models.mine: a fusion is made of a study's models: configure it under fusion"),
        (["models.mine={network: '${network}', pretrained: true}", "network=resnet1d",
          "pretrain=mae_small"],
         "can't be pretrained as a masked autoencoder"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_begins(overrides: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_of(compose_config(overrides))
    assert told in str(refused.value)


def test_a_launch_ends_with_such_a_mistake(tmp_path: Path) -> None:
    mine = "models.mine={network: {name: a, _target_: nowhere.Net}}"
    done = launch(tmp_path, f"cohort.root={tmp_path}/cohort", mine)
    assert done.status == 2, done.output + done.errors
    assert "models.mine: _target_=nowhere.Net can't be imported" in done.errors
    assert not (tmp_path / "cohort").exists()
