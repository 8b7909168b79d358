from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from tiny import PH, trainer
from torch.utils.data import DataLoader

from lightning_modules.checkpoint import load_classifier
from lightning_modules.classifier import LinearModel as Model

BLOOD = {"_target_": "datamodules.inputs.blood.Blood", "marker": "bnp_pg_ml"}


@pytest.fixture(scope="module")
def exams() -> tuple[np.ndarray, np.ndarray]:
    """Standardised features (400, 3), two of them correlated, and targets with log-odds in them."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((400, 3)) @ [[1, 0.8, 0], [0, 0.6, 0], [0, 0, 1]]
    features = (features - features.mean(0)) / features.std(0)
    target = generator.random(400) < expit(features @ [1.5, -0.5, 0.2] - 1.2)
    return features, target.astype(float)


def loader(features: np.ndarray, target: np.ndarray) -> DataLoader[dict[str, torch.Tensor]]:
    rows = [
        {"bnp": torch.tensor(x), "target": torch.tensor([t], dtype=torch.float32), "exam": i}
        for i, (x, t) in enumerate(zip(features, target, strict=True))
    ]
    return DataLoader(rows, batch_size=len(rows))  # type: ignore[arg-type]


def fitted(exams: tuple[np.ndarray, np.ndarray], folder: Path, *, penalty: float) -> Model:
    """Fitted in one step, and saved as model.ckpt."""
    module = Model(
        reads="bnp",
        input=BLOOD,
        task=PH,
        features=exams[0].shape[1],
        penalty=penalty,
        about={"target": "ph"},
    )
    fit = trainer(folder, max_epochs=1, precision="64-true", num_sanity_val_steps=0)
    fit.fit(module, loader(*exams), loader(*exams))
    fit.save_checkpoint(folder / "model.ckpt", weights_only=True)
    return module


def coefficients(module: Model) -> np.ndarray:
    network = module.network
    return torch.cat([network.weight.detach().ravel(), network.bias.detach()]).double().numpy()


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_one_step_gives_scikit_learns_coefficients(
    exams: tuple[np.ndarray, np.ndarray], penalty: float, tmp_path: Path
) -> None:
    reference = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=1000).fit(*exams)
    expected = [*reference.coef_[0], *reference.intercept_]
    module = fitted(exams, tmp_path, penalty=penalty)
    np.testing.assert_allclose(coefficients(module), expected, atol=1e-6)


def test_without_a_penalty_it_is_the_maximum_of_the_likelihood(
    exams: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    design = np.column_stack([exams[0], np.ones(400)])
    expected = np.zeros(4)
    for _ in range(20):  # Newton's method
        probability = expit(design @ expected)
        information = (design * (probability * (1 - probability))[:, None]).T @ design
        expected += np.linalg.solve(information, design.T @ (exams[1] - probability))
    np.testing.assert_allclose(
        coefficients(fitted(exams, tmp_path, penalty=0.0)), expected, atol=1e-6
    )


def test_a_checkpoint_predicts_in_single_precision(
    exams: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    module = fitted(exams, tmp_path, penalty=1.0)
    again = load_classifier(tmp_path / "model.ckpt")
    assert isinstance(again, Model)
    assert dict(again.hparams) == {
        "reads": "bnp",
        "input": BLOOD,
        "task": PH,
        "features": 3,
        "penalty": 1.0,
        "about": {"target": "ph"},
    }
    assert again.network.weight.dtype == torch.float32
    expected = exams[0] @ coefficients(module)[:3] + coefficients(module)[3]
    for dtype in (torch.float32, torch.float64):
        got = again({"bnp": torch.tensor(exams[0], dtype=dtype)}).detach()[:, 0]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_half_precision_on_the_way_does_not_round_the_logits(
    exams: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    fitted(exams, tmp_path, penalty=1.0)
    module = load_classifier(tmp_path / "model.ckpt")
    (batch,) = trainer(tmp_path, precision="bf16-mixed").predict(module, loader(*exams)) or []
    assert len(np.unique(batch["outputs"])) == 400
