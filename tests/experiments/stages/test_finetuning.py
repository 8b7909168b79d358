"""What a fine-tuning starts from, what it keeps, and what chooses that."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import experiments.stages.train as training
from datamodules.inputs.blood import Blood
from datamodules.inputs.ecg import ECGAugmentation
from datamodules.inputs.input import Fitted
from datamodules.institution import InstitutionDataModule, Loading
from experiments.config import compose_config
from experiments.plan import plan_of
from experiments.stages.exams import Exams
from experiments.stages.train import BatchStatistics, Finetune, HeadFirst, Model, recalibrated
from experiments.stages.training import Compute
from lightning_modules.classifier import Classifier
from lightning_modules.tasks.binary import Binary

INPUT = Blood("bnp_pg_ml", age=True, sex=False, mean=(5.0, 60.0), deviation=(1.0, 10.0))


class Normed(nn.Module):
    """Two features, a hidden layer with batch norm, and a linear head."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(features, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, outputs)

    def forward_features(self, x: Tensor) -> Tensor:
        seen: Tensor = self.hidden(x.float())
        return seen

    def forward_head(self, seen: Tensor, pre_logits: bool = False) -> Tensor:
        return seen if pre_logits else self.head(seen)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def site() -> InstitutionDataModule:
    """150 exams, two thirds trained on."""
    rng = np.random.default_rng(0)
    log_bnp = rng.normal(5, 1, 150)
    exams = pd.DataFrame(
        {
            "institution": "alpha",
            "exam_id": [f"e{i}" for i in range(150)],
            "patient_id": [f"p{i}" for i in range(150)],
            "split": [("train", "train", "val")[i % 3] for i in range(150)],
            "bnp_pg_ml": np.exp(log_bnp),
            "age_years": rng.normal(60, 10, 150),
            "target": (rng.random(150) < 1 / (1 + np.exp(6 - log_bnp))).astype(float),
            "row": 0,
        }
    )
    return InstitutionDataModule(
        "alpha", exams, None, reads="bnp", input=INPUT, augmentation=None,
        loading=Loading(batch_size=16, workers=0, seed=0), targets=["target"],
    )  # fmt: skip


def build(*, frozen: bool = False) -> Classifier:
    torch.manual_seed(0)
    return Classifier(
        reads="bnp",
        input={},
        task={
            "_target_": "lightning_modules.tasks.binary.Binary",
            "labels": ["target"],
            "positive_weights": [1.0],
        },
        network={"_target_": f"{__name__}.Normed", "settings": {}, "shape": {"features": 2}},
        frozen_encoder=frozen,
        layer_decay=1.0,
        weight_decay=0.05,
        base_learning_rate=0.1,
        effective_batch=16,
        betas=[0.9, 0.999],
        warmup_fraction=0.1,
    )


def fitted(folder: Path, data: InstitutionDataModule, module: Classifier, steps: int) -> Any:
    callbacks = [HeadFirst(data, [10.0]), BatchStatistics(data)]
    trainer = L.Trainer(
        accelerator="cpu", logger=False, max_steps=steps, max_epochs=-1, callbacks=callbacks,
        default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False,
        num_sanity_val_steps=0, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


def all_training(data: InstitutionDataModule) -> tuple[Tensor, np.ndarray]:
    exams = data.chosen("train")
    batch = data.prepare(data.dataset.__getitems__(exams.tolist()))
    return batch["bnp"], batch["target"][:, 0].numpy()


def test_a_linear_probe_is_scikit_learns_regression_on_the_features(tmp_path: Path) -> None:
    data = site()
    module = build(frozen=True)
    fitted(tmp_path, data, module, 0)
    inputs, target = all_training(data)
    with torch.no_grad():
        seen = module.eval().network.forward_features(inputs).double().numpy()
        outputs = module({"bnp": inputs})[:, 0].numpy()
    standard = StandardScaler().fit_transform(seen)
    model = LogisticRegression(C=1 / 10, tol=1e-12, max_iter=5000).fit(standard, target)
    np.testing.assert_allclose(outputs, model.decision_function(standard), atol=1e-3)
    again = build(frozen=True)
    torch.manual_seed(99)
    fitted(tmp_path, site(), again, 0)
    torch.testing.assert_close(again.state_dict(), module.state_dict(), equal_nan=True)


def test_kept_batch_statistics_are_of_the_kept_weights(tmp_path: Path) -> None:
    data, module = site(), build()
    begun = HeadFirst(data, [10.0])
    begun.on_fit_start(cast(Any, SimpleNamespace(strategy=SimpleNamespace(broadcast=dict))), module)
    assert all(part.training for part in module.network.modules())
    fitted(tmp_path, data, module, 9)
    inputs, _ = all_training(data)
    hidden = cast(Any, module.network).hidden
    with torch.no_grad():
        seen = hidden[0](inputs.float())
    torch.testing.assert_close(hidden[1].running_mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden[1].running_var, seen.var(0), rtol=1e-4, atol=1e-5)


def test_validation_exams_recalibrate_what_the_checkpoint_says() -> None:
    data, module = site(), build().eval()
    with torch.no_grad():
        module.network.head.bias += 1  # type: ignore[operator, union-attr]
    exam = data.chosen("val")
    with torch.no_grad():
        batch = data.prepare(data.dataset.__getitems__(exam.tolist()))
        outputs = module(batch).double().numpy()
        told = recalibrated(module, data, exam, outputs)
        np.testing.assert_array_equal(module(batch).double().numpy(), told)
    share = batch["target"].mean().item()
    before, after = (1 / (1 + np.exp(-of)) for of in (outputs, told))
    assert abs(after.mean() - share) < abs(before.mean() - share) / 2


@pytest.mark.parametrize(("patience", "monitors"), [(None, []), (5, ["val/loss", "val/loss"])])
def test_no_validation_auroc_chooses_what_is_kept(
    patience: int | None,
    monitors: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = {"patience": patience, "batch_size": 16, "validate_every_steps": 4, "max_steps": 8,
              "max_epochs": -1, "gradient_clip": None, "head_penalties": None,
              "frozen_encoder": False}  # fmt: skip
    stage = Finetune(
        "m", Model(Classifier, "bnp", None, recipe, False), Binary(("target",)),
        Fitted(INPUT, {}, {}), Exams((), "bnp", ("target",)), None, None, 0, Compute(),
    )  # fmt: skip
    found: list[Any] = []

    def stop(place: Any, compute: Any, callbacks: Any, **_: Any) -> None:
        found.extend(callbacks)
        raise InterruptedError

    monkeypatch.setattr(training, "trainer", stop)
    monkeypatch.setattr(Finetune, "data", lambda *_: site())
    tracking = SimpleNamespace(logger=lambda _: None)
    place = SimpleNamespace(path=tmp_path, run=None, lab=SimpleNamespace(tracking=tracking))
    with pytest.raises(InterruptedError):
        stage.make(cast(Any, place))
    choosing = [of for of in found if isinstance(of, EarlyStopping | ModelCheckpoint)]
    assert [of.monitor for of in choosing if of.monitor] == monitors


def test_a_recipe_differs_for_what_starts_pretrained_and_the_models_own_word_is_last() -> None:
    config = compose_config(["models.pretrained.finetune={max_steps: 7}"])
    recipes = {name: model.recipe for name, model in plan_of(config).models.models.items()}
    assert recipes["pretrained"]["max_steps"] == 7
    assert recipes["pretrained"]["head_penalties"]
    assert recipes["cnn"]["head_penalties"] is None
    assert "from_pretrained" not in recipes["cnn"]


def test_other_electrocardiographs_filters_take_away_what_is_outside_their_band() -> None:
    time = torch.arange(1000) / 100
    slow, middle, fast = (torch.sin(2 * torch.pi * hz * time) for hz in (0.2, 5.0, 40.0))
    settings = {"circular_shift": False, "amplitude": 0.0, "noise": 0.0, "lead_dropout": 0.0}
    band = {"high_pass_hz": [1.0, 1.0], "low_pass_hz": [15.0, 15.0], "sampling_rate_hz": 100}
    change = ECGAugmentation(**settings, **band)  # type: ignore[arg-type]
    for wave, share in ((slow, 0.0016), (middle, 0.986), (fast, 0.0194)):
        out = change(wave.expand(2, 12, -1))
        assert (out.std() / wave.std()).item() == pytest.approx(share, abs=0.005)
    with pytest.raises(ValueError, match="the least and the most"):
        ECGAugmentation(**settings, high_pass_hz=[2.0, 1.0])  # type: ignore[arg-type]
