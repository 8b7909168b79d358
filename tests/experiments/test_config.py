import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from places import REPOSITORY
from pydantic import ValidationError

from datamodules.errors import InputError
from experiments.arguments import read_arguments
from experiments.config import as_yaml, compose_config, compose_jobs, help_text, plain


def test_nothing_said_is_the_quickstart_at_small_scale() -> None:
    config = compose_config([])
    assert (config.study, config.target, config.network.name) == (
        "quickstart",
        ["lvsd"],
        "resnet1d_small",
    )
    assert config.ecg.sampling_rate_hz == 100
    assert config.tracking.uri == "sqlite:///mlruns/mlflow.db"


def test_the_papers_scale_is_the_papers() -> None:
    config = compose_config(["scale=paper", "experiment=lvsd"])
    assert config.ecg.sampling_rate_hz * config.ecg.seconds == 5000
    assert (config.tokens.model_extra["patch_samples"], config.pretrain.mask_ratio) == (250, 0.75)
    assert (config.network.name, config.pretrain.max_epochs) == ("vit_base", 800)
    assert compose_config(["scale=paper", "network=vit_huge"]).network.name == "vit_huge"


def test_a_persons_word_beats_scale_and_experiment() -> None:
    config = compose_config(["experiment=real_ecg", "cohort.root=x", "pretrain.max_steps=7"])
    assert (config.cohort.source, config.pretrain.max_steps) == ("public", 7)
    config = compose_config(["experiment=real_ecg", "cohort=manifests", "cohort.root=x"])
    assert config.cohort.source == "manifests"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.mask_ration=0.5", "Did you mean pretrain.mask_ratio?"),
        ("netwrk=vit_base", "Did you mean network?"),
        ("netwrk.settings.width=3", "there is no netwrk. Did you mean network.settings.width or"),
        ("network=vit_bas", "Did you mean network=vit_base?"),
        ("experiment=lvds", "Did you mean experiment=lvsd?"),
        ("lvsd", "NAME=VALUE"),
        ("models.a/b={input: ecg}", "models.a/b is no name that a key can have"),
        ("seed=abc", "seed=abc: it must be a whole number"),
        ("seed=true", "seed=true: it must be a whole number"),
        ("seed=1.5", "seed=1.5: it must be a whole number"),
        ("seed=-1", "seed=-1: it must be at least 0"),
        ("seed.x=1", "seed holds no keys"),
        ("finetune.batch_size=16.5", "finetune.batch_size=16.5: it must be a whole number"),
        ("pretrain.batch_size=16.5", "pretrain.batch_size=16.5: it must be a whole number"),
        ("finetune.patience=2.5", "finetune.patience=2.5: it must be a whole number"),
        ("finetune.max_steps=8.5", "finetune.max_steps=8.5: it must be a whole number"),
        ("finetune.base_learning_rate=-1", "finetune.base_learning_rate=-1: it must be above 0"),
        ("finetune.base_learning_rate=null", "base_learning_rate=null: it must be a number"),
        ("finetune.base_learning_rate=inf", "base_learning_rate=inf: it must be a number"),
        ("finetune.betas=[2,3]", "finetune.betas=[2,3]: 2 must be at least 0 and below 1"),
        ("finetune.betas=[0.9]", "finetune.betas=[0.9]: it has fewer than 2 values"),
        ("finetune.betas=[0.9", "finetune.betas=[0.9: it must be a list"),
        ("finetune.betas.0=0.9", "finetune.betas is a list. Give the whole of it"),
        ("finetune.augmentation.lead_dropout=5", "it must be at least 0 and at most 1"),
        ("finetune.augmentation.lead_drop=0", "Did you mean finetune.augmentation.lead_dropout?"),
        ("finetune.frozen_encoder=7", "true or false"),
        ("finetune.max_steps=-1", "finetune: give max_steps or max_epochs"),
        (
            "cohort.source=simulatd",
            "cohort.source=simulatd: it is one of simulated, manifests, pub",
        ),
        ("cohort.institutions.quillhavn.exams=9", "Did you mean cohort.institutions.quillhaven.ex"),
        ("cohort.every_institution.exam=9", "Did you mean cohort.every_institution.exams?"),
        ("trainer.precision=bf16-true", "it is one of 32-true, bf16-mixed, 16-mixed. Did you mean"),
        ("pretrain=3", "pretrain is one of beat_contrast, beat_contrast_small, cpc"),
        ("pretrain.augmentation=3", "a group of keys"),
        ("pretrain={mask_ratio: 0.5}", "A value of its file is pretrain.KEY=VALUE"),
        ("fusion.folds=3", "fusion is null in this study"),
        ("+new.key=1", "there is no new"),
        ("+sed=1", "there is no such key. Did you mean seed?"),
        ("seed=1,2", "add -m"),
        ("models.cnn.finetune={max_stpes: 4}", "Did you mean models.cnn.finetune.max_steps?"),
        ("models.cnn.finetune={batch_size: 4.5}", "models.cnn.finetune.batch_size=4.5: it must be"),
        ("models.cnnn.finetune={max_steps: 4}", "Did you mean models.cnn.finetune?"),
        ("~network", "~network: a network there must be, one of resnet18"),
        ("~models.cnnn", "Did you mean models.cnn?"),
        ("models.mine={network: {settings: {}}}", "models.mine.network.name must be given"),
        ("models.cnn.network.settings.widths=[4]", "Change baseline.settings.widths"),
        ("published=[{target: a, model: b, auroc: 91, source: c}]", "at least 0 and at most 1"),
        ("cohort.source=ptbxl", "cohort.sampling_rate_hz"),
        ("splits={train: 0.5, val: 0.2, test: 0.2}", "must sum to 1"),
        ("ecg.limits.min_seconds=5", "ecg.limits.min_seconds=5: recordings must be at least"),
        ("statistics.age_edges=[65,50]", "statistics.age_edges=[65,50]: give ages in rising"),
        (
            "statistics.truth_thresholds={lvef_percent: [40, 40]}",
            "truth_thresholds: lvef_percent has",
        ),
        ("statistics.truth_thresholds={lvef_percent: [.inf]}", "truth_thresholds.lvef_percent"),
        ("statistics.truth_thresholds={lvef_percent: [forty]}", "truth_thresholds.lvef_percent"),
        ("statistics.decision_thresholds=[0.5,0.1,0.1]", "the lowest, the highest and the step"),
        ("statistics.subgroups=[sex]", "statistics.subgroups: sex can't be"),
        ("hydra/launcher=jublib", "hydra/launcher is one of basic"),
        ("--confg", "There are --help, --config"),
    ],
)
def test_a_mistake_is_answered_with_what_would_be_right(override: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        compose_config([override])


@pytest.mark.parametrize(
    ("override", "last"),
    [("epochs=3", "max_epochs"), ("batch_size=8", "batch_size"), ("max_steps=5", "max_steps")],
)
def test_where_several_keys_fit_all_are_named(override: str, last: str) -> None:
    with pytest.raises(InputError) as refused:
        compose_config([override])
    for training in ("pretrain", "finetune", "cxr_finetune"):
        assert f"{training}.{last}" in str(refused.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as refused:
        compose_config(["finetune.patience=0", "seed=1.5"])
    assert "finetune.patience=0" in str(refused.value)
    assert "seed=1.5" in str(refused.value)


def test_models_are_changed_added_and_left_out() -> None:
    config = compose_config(
        [
            "~models.scratch",
            "models.cnn.finetune={max_steps: 4}",
            "models.mine={classifier: LVSDClassifier, network: ${baseline}}",
            "models.mine.finetune.batch_size=3",
        ]
    )
    assert list(config.models) == ["pretrained", "cnn", "mine"]
    assert config.models["cnn"].finetune == {"max_steps": 4}
    assert config.models["mine"].finetune == {"batch_size": 3}
    assert config.models["mine"].network == config.baseline
    assert not config.models["mine"].pretrained


def test_settings_are_read_only_and_whole_numbers_serve_as_fractions() -> None:
    config = compose_config(["finetune.weight_decay=1"])
    assert config.finetune.weight_decay == 1
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]


def test_what_hydra_cannot_read_is_taken_as_it_stands() -> None:
    root = "DEST/odd-path/病院 (1) a=b"
    config = compose_config(["target=左室機能低下", "cohort=manifests", f"cohort.root={root}"])
    assert (config.target, config.cohort.root) == (["左室機能低下"], root)
    quoted = 'C:\\of "them" (1)\\'
    assert compose_config([f"cache={quoted}"]).cache == quoted


def test_one_name_stands_for_a_list_and_a_number_for_a_name() -> None:
    assert compose_config(["cohort.development=general"]).cohort.development == ["general"]
    assert compose_config(["cohort.external=[101,102]"]).cohort.external == ["101", "102"]


def test_plain_values_are_those_of_the_file() -> None:
    config = compose_config(["models.mine={classifier: LVSDClassifier}"])
    assert yaml.safe_load(as_yaml(config)) == plain(config)
    assert plain(config.models)["mine"]["finetune"] == {}
    assert plain(config)["network"]["_target_"] == "lightning_modules.networks.resnet1d.ResNet1d"
    assert plain(OmegaConf.create({"a": [1]})) == {"a": [1]}


def test_a_network_is_named_by_its_class() -> None:
    config = compose_config(["network._target_=mine.Net", "network.settings={any: thing}"])
    assert config.network.target == "mine.Net"
    assert config.network.settings["any"] == "thing"
    with pytest.raises(InputError, match="Did you mean network._target_"):
        compose_config(["network.target=mine.Net"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A person's own folder: a network, a study with it, and a module."""
    for name, text in {
        "network/mine.yaml": "name: mine\n_target_: mine.Net\nsettings: {widths: [4]}\n",
        "experiment/own.yaml": "# @package _global_\n# A study of my own\ndefaults:\n"
        "  - override /network: mine\nstudy: own\nprotocol: external_validation\nmodels: {}\n",
        "module_of_mine.py": "ANSWER = 42\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_persons_own_folder_of_configs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = compose_config(["--config-dir", str(folder), "experiment=own"])
    assert (config.study, config.network.name) == ("own", "mine")
    assert importlib.import_module("module_of_mine").ANSWER == 42
    assert "A study of my own" in help_text(folder)
    with pytest.raises(InputError, match="experiment=owm: experiment is one of .*own.*mean exp"):
        compose_config([f"--config-dir={folder}", "experiment=owm"])
    with pytest.raises(InputError, match="network is one of resnet18"):
        compose_config(["network=mine"])


def test_a_network_file_with_a_mistake_is_told_once(folder: Path) -> None:
    file = folder / "network" / "mine.yaml"
    file.write_text(f"{file.read_text()}lair_decay: 0.5\n")
    with pytest.raises(InputError) as refused:
        compose_config(["--config-dir", str(folder), "network=mine"])
    assert str(refused.value) == (
        "network.lair_decay=0.5: there is no such key. Did you mean network.layer_decay?"
    )
    file.write_text("name: [torn\n")
    with pytest.raises(InputError, match=r"mine.yaml"):
        compose_config(["--config-dir", str(folder), "network=mine"])


def test_a_folder_that_is_none_of_configs(folder: Path) -> None:
    for wrong in (folder / "nowhere", folder / "network"):
        with pytest.raises(
            InputError, match=r"--config-dir .*experiment, finetune, method, network"
        ):
            compose_config(["--config-dir", str(wrong)])
    (folder / "network" / "vit_base.yaml").write_text("name: other\n")
    with pytest.raises(InputError, match="there is a network=vit_base already"):
        compose_config(["--config-dir", str(folder)])


def test_the_jobs_of_a_sweep_are_checked_before_any_begins() -> None:
    wanted = read_arguments(["-m", "seed=1,2", "network=vit_micro,resnet1d", "workers=1"])
    jobs = compose_jobs(wanted)
    assert [overrides for overrides, _ in jobs] == [
        [f"seed={seed}", f"network={network}"]
        for seed in (1, 2)
        for network in ("vit_micro", "resnet1d")
    ]
    assert [(c.seed, c.network.name) for _, c in jobs][1] == (1, "resnet1d")
    for wrong, message in {
        "sed=1,2": "sed=1: there is no such key. Did you mean seed?",
        "seed=1,x": "seed=x: it must be a whole number",
        "network=vit_micro,vit_bas": "Did you mean network=vit_base?",
        "seed=interval(1,2)": "does not support sweep type",
    }.items():
        with pytest.raises(InputError, match=re.escape(message)):
            compose_jobs(read_arguments(["-m", wrong]))


def test_a_cohort_without_its_folder_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"cohort\.root"):
        compose_config(["cohort=manifests"])


def test_help_names_every_study_and_option() -> None:
    text = help_text()
    for file in (REPOSITORY / "configs").glob("*/*.yaml"):
        assert file.stem in text, file
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs" / "experiment").glob("*.yaml")))
def test_every_study_composes_at_both_scales(file: Path) -> None:
    for scale in ("small", "paper"):
        config = compose_config(
            [f"experiment={file.stem}", f"scale={scale}", "cohort.root=x", "predictions=[y]"]
        )
        assert config.cohort.root == "x"
