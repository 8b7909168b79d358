import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny import CNN, PH, classifier, film_classifier, trainer
from torch.utils.data import DataLoader

from lightning_modules.checkpoint import load_classifier
from lightning_modules.classifier import LinearModel, TaskModule
from lightning_modules.fusion import Fusion

NAN = float("nan")
SEPARATION = np.array([1.0, 1.5, 0.6])
LEARNING: dict[str, Any] = {
    "weight_decay": 0.01,
    "base_learning_rate": 0.02,
    "effective_batch": 256,
    "betas": [0.9, 0.999],
    "warmup_fraction": 0.1,
}


def submodels() -> dict[str, TaskModule]:
    ecg = classifier(CNN, task={**PH, "positive_weights": [3.0]}, **LEARNING)
    bnp = LinearModel(
        reads="bnp",
        input={"_target_": "datamodules.inputs.blood.Blood", "mean": [3.5, 60.0]},
        task=PH,
        features=2,
        penalty=1.0,
        about={"exams": 7},
    )
    torch.nn.init.normal_(bnp.network.weight)
    bnp.set_threshold([0.3])
    return {"ph_ecg": ecg, "ph_cxr": film_classifier(), "ph_bnp": bnp}


def build(**changes: Any) -> Fusion:
    settings: dict[str, Any] = {
        "task": PH,
        "mean": [[0.0], [0.0], [0.0]],
        "deviation": [[1.0], [1.0], [1.0]],
        "widths": [16, 8],
        "modality_dropout": 0.25,
        **LEARNING,
    }
    return Fusion.from_submodels(submodels(), **{**settings, **changes})


def exams(n: int, *, missing: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, 3) of variance 1 about +-SEPARATION/2, independent given the target, and targets.

    Each is missing with that probability, but never all.
    """
    generator = np.random.default_rng(seed)
    target = generator.random(n) < 0.3
    scores = generator.standard_normal((n, 3)) + np.where(target, 0.5, -0.5)[:, None] * SEPARATION
    gone = generator.random((n, 3)) < missing
    gone[np.arange(n), generator.integers(3, size=n)] = False
    return np.where(gone, np.nan, scores), target


def loader(scores: np.ndarray, target: np.ndarray) -> DataLoader[dict[str, torch.Tensor]]:
    rows = [
        {"values": logits[:, None], "target": t, "exam": i}
        for i, (logits, t) in enumerate(
            zip(torch.tensor(scores).float(), torch.tensor(target).float()[:, None], strict=True)
        )
    ]
    return DataLoader(rows, batch_size=256)  # type: ignore[arg-type]


def logits_of(fusion: Fusion, scores: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return fusion.eval()({"values": torch.tensor(scores)[..., None]}).numpy()[:, 0]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fusion, Path]:
    fusion = build()
    folder = tmp_path_factory.mktemp("fusion")
    fit = trainer(folder, max_epochs=20, num_sanity_val_steps=0)
    fit.fit(fusion, loader(*exams(4000, missing=0.3)), loader(*exams(500, missing=0.3, seed=1)))
    assert {"val/auroc", "val/loss"} <= fit.callback_metrics.keys()
    fusion.set_threshold([0.4])
    fit.save_checkpoint(folder / "model.ckpt", weights_only=True)
    return fusion, folder / "model.ckpt"


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_it_comes_close_to_the_bayes_rule(learned: tuple[Fusion, Path], missing: float) -> None:
    scores, target = exams(20_000, missing=missing, seed=2)
    # Linear discriminant of independent scores: their log-likelihood ratios add up.
    bayes = roc_auc_score(target, np.nansum(scores * SEPARATION, axis=1))
    assert roc_auc_score(target, logits_of(learned[0], scores)) > bayes - 0.005


def test_its_probabilities_are_those_of_the_bayes_rule(learned: tuple[Fusion, Path]) -> None:
    scores, _ = exams(5000, missing=0.3, seed=3)
    log_odds = np.nansum(scores * SEPARATION, axis=1) + np.log(0.3 / 0.7)
    expected = 1 / (1 + np.exp(-log_odds))
    got = 1 / (1 + np.exp(-logits_of(learned[0], scores)))
    assert np.abs(got - expected).mean() < 0.03


def test_training_leaves_the_submodels_as_they_were(learned: tuple[Fusion, Path]) -> None:
    fusion, before = learned[0], submodels()
    for name, submodel in before.items():
        for key, value in submodel.state_dict().items():
            got = fusion.submodels[name].state_dict()[key]
            torch.testing.assert_close(got, value, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_is_all_that_a_prediction_needs(learned: tuple[Fusion, Path]) -> None:
    fusion, path = learned
    again = load_classifier(path)
    assert isinstance(again, Fusion)
    assert again.threshold.item() == pytest.approx(0.4)
    before = submodels()
    assert list(again.submodels) == list(before)
    for name, submodel in before.items():
        assert dict(again.submodels[name].hparams) == dict(submodel.hparams)
    assert again.submodels["ph_bnp"].threshold.item() == pytest.approx(0.3)
    inputs = {
        "ph_ecg": torch.randn(2, 12, 100),
        "ph_cxr": torch.randn(2, 1, 32, 32),
        "ph_bnp": torch.randn(2, 2),
    }
    logits = again.train().submodel_values(inputs)
    again.eval()
    for column, (name, submodel) in enumerate(before.items()):
        alone = submodel.eval()({submodel.reads: inputs[name]})[:, 0]
        torch.testing.assert_close(logits[:, column, 0], alone, rtol=0, atol=0)
    for present in itertools.product([True, False], repeat=3):
        if any(present):
            some = {n: inputs[n] if p else None for n, p in zip(inputs, present, strict=True)}
            partial = again.submodel_values(some)
            expected = logits.masked_fill(~torch.tensor(present)[:, None], NAN)
            torch.testing.assert_close(partial, expected, rtol=0, atol=0, equal_nan=True)
            ours, theirs = again({"values": partial}), fusion.eval()({"values": expected})
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            assert ours.isfinite().all()


def test_values_of_nothing_and_of_strangers_are_refused() -> None:
    fusion = build()
    with pytest.raises(ValueError, match="no input for any of ph_ecg, ph_cxr, ph_bnp"):
        fusion.submodel_values({"ph_ecg": None})
    with pytest.raises(ValueError, match="bnp is not one of ph_ecg, ph_cxr, ph_bnp"):
        fusion.submodel_values({"bnp": torch.zeros(1, 2)})


def test_a_submodel_that_says_always_the_same_is_refused() -> None:
    with pytest.raises(ValueError, match="logits of ph_bnp for ph do not vary"):
        build(deviation=[[1.0], [1.0], [0.0]])
