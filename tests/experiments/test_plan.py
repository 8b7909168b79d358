"""What can be known of a study before anything long begins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from datamodules.errors import InputError
from datamodules.inputs.blood import Blood
from datamodules.inputs.cxr import CXR
from datamodules.manifest import Column
from experiments.config import compose_config
from experiments.plan import plan_of
from lightning_modules.classifier import LinearModel


class Film(CXR):
    """Another film, which takes the first one's name on the command line of a prediction."""

    columns: ClassVar[Mapping[str, Column]] = {"film_path": Column("path")}

    @property
    def reads(self) -> tuple[str, ...]:
        return ("film_path",)

    @property
    def arguments(self) -> Mapping[str, str]:
        return {"cxr": "film_path"}


def test_two_inputs_of_one_name_are_refused() -> None:
    film = f"inputs.film={{_target_: {Film.__module__}.Film, size: 64}}"
    with pytest.raises(InputError, match="inputs.cxr and inputs.film are two inputs that take cxr"):
        plan_of(compose_config([film]))


def test_two_inputs_may_read_the_same_column() -> None:
    marker = "inputs.other={_target_: datamodules.inputs.blood.Blood, marker: bnp_pg_ml"
    plan = plan_of(compose_config([f"{marker}, age: true, sex: true}}"]))
    assert {"bnp_pg_ml", "ecg_path", "cxr_path"} <= set(plan.question.columns)
    assert plan.reads == ("ecg",)  # what the study's models read


def test_an_input_twice_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "twice.yaml").write_text(
        "# @package _global_\ndefaults: [ph, _self_]\n"
        "inputs:\n  lungs: {_target_: a.B}\n  lungs: {_target_: c.D}\n"
    )
    with pytest.raises(InputError, match="found duplicate key lungs"):
        compose_config(["--config-dir", str(tmp_path), "experiment=twice"])


def test_a_model_changes_of_its_recipe_what_it_names() -> None:
    mine = "models.cnn.finetune={augmentation: {noise: 0.1}, gradient_clip: null}"
    models = plan_of(compose_config([mine, "models.cnn.finetune.max_steps=7"])).models.models
    recipe, common = models["cnn"].recipe, models["scratch"].recipe
    assert recipe["augmentation"] == {**common["augmentation"], "noise": 0.1}
    assert (recipe["gradient_clip"], recipe["max_steps"]) == (None, 7)
    assert {k for k in recipe if recipe[k] != common[k]} == (
        {"augmentation", "gradient_clip", "max_steps"}
    )


def test_a_pretraining_of_ones_own_keeps_its_settings(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "mine.yaml").write_text(
        "defaults: [mae]\nmax_steps: 4\ngradient_clip: null\nmax_epochs: -1\n"
    )
    config = compose_config(["--config-dir", str(tmp_path), "pretrain=mine"])
    assert (config.pretrain.max_steps, config.pretrain.gradient_clip) == (4, None)
    assert config.pretrain.batch_size == 256


def test_thresholds_on_the_truth_of_no_label_are_refused_before_anything_is_read() -> None:
    asked = ["task=regression", "target=lvef_percent", "statistics.truth_thresholds={lvef: [40]}"]
    with pytest.raises(InputError, match=r"lvef is no label here.*Did you mean lvef_percent\?"):
        plan_of(compose_config(asked))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("task.sensitivty=3", "task: Binary has no setting sensitivty"),
        ("inputs.bnp.agee=true", "inputs.bnp: Blood has no setting agee. Did you mean age"),
        ("inputs.other={_target_: datamodules.inputs.cxr.CXR}", "size must be given to CXR"),
        ("models={}", "Leave one out with '~models.NAME'"),
        ("pretrain.nois=3", "there is no such key"),
        ("models.cnn.finetune.augmentation.amplitude=7", "amplitude 7 is not between 0 and 1"),
    ],
)
def test_what_a_value_does_not_take(override: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_of(compose_config([override]))
    assert told in str(refused.value)


def test_a_plan_is_of_what_the_configuration_says() -> None:
    settings = ["experiment=ph", "bnp.age=true", "models.ph_bnp.finetune={penalty: 3}"]
    plan = plan_of(compose_config(settings))
    assert plan.reads == ("ecg", "cxr", "bnp")
    blood: Any = plan.question.inputs["bnp"]
    assert blood == Blood("bnp_pg_ml", True, False)
    model = plan.models.models["ph_bnp"]
    assert model.kind is LinearModel
    assert model.recipe["penalty"] == 3
    assert plan.models.task.labels == ("ph",)
    assert plan.allowed == ()
