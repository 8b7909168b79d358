import pytest
from omegaconf import OmegaConf
from places import REPOSITORY

from datamodules.errors import InputError
from experiments.config import compose_config, help_text


def test_nothing_said_is_the_quickstart_at_small_scale() -> None:
    config = compose_config([])
    assert (config.study, config.target, config.network.name) == ("quickstart", "lvsd", "vit_micro")
    assert config.ecg.sampling_rate_hz == 100
    assert config.tracking.uri == "sqlite:///mlruns/mlflow.db"


def test_the_papers_scale_is_the_papers() -> None:
    config = compose_config(["scale=paper", "experiment=lvsd"])
    assert config.ecg.sampling_rate_hz * config.ecg.seconds == 5000
    assert (config.ecg.patch_samples, config.pretrain.mask_ratio) == (250, 0.75)
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
        ("max_steps=5", "Did you mean pretrain.max_steps?"),
        ("network=vit_bas", "Did you mean network=vit_base?"),
        ("experiment=lvds", "Did you mean experiment=lvsd?"),
        ("lvsd", "NAME=VALUE"),
        ("seed=abc", "seed is a number"),
        ("seed=true", "seed is a number"),
        ("finetune.frozen_encoder=7", "true or false"),
        ("cohort.development=quillhaven", "a list such as"),
        ("pretrain=3", "pretrain is one of mae"),
        ("pretrain.decoder=3", "a group of keys"),
        ("+new.key=1", "can't be added"),
        ("seed=1,2", "not a sweep"),
    ],
)
def test_a_mistake_is_answered_with_what_would_be_right(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        compose_config([override])


def test_a_cohort_without_its_folder_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"cohort\.root"):
        compose_config(["cohort=manifests"])


def test_help_names_every_study_and_option() -> None:
    text = help_text()
    for file in (REPOSITORY / "configs").glob("*/*.yaml"):
        assert file.stem in text, file
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs" / "experiment").glob("*.yaml")))
def test_every_study_composes_at_both_scales(file: object) -> None:
    for scale in ("small", "paper"):
        name = file.stem  # type: ignore[attr-defined]
        config = compose_config([f"experiment={name}", f"scale={scale}", "cohort.root=x"])
        assert OmegaConf.missing_keys(config) == set()
