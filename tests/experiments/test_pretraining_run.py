"""The real command with each pretraining beside the masked autoencoder, on a network it is for."""

from pathlib import Path

import pytest
import torch
from command import TINY, TINY_COHORT, launch

from lightning_modules.checkpoint import load_trained

ALONE = ("~models.scratch", "~models.cnn")
LEFT_OUT = ("network=", "network.", "pretrain=", "pretrain.decoder")
FINETUNE = [setting for setting in TINY if not setting.startswith(LEFT_OUT)]
RESNET = ("network=resnet1d_small", "network.settings.widths=[8]")
S4 = ("network=s4_small", "network.settings={width: 8, layers: 1, stride: 4}")
STEM = ("network=vit_micro", "tokens=stem", "network.settings={width: 16, depth: 1, heads: 2}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the launches, so that they share cohort and stores."""
    return tmp_path_factory.mktemp("pretrainings")


@pytest.mark.parametrize(
    ("pretrain", "network", "word", "figure"),
    [
        ("beat_contrast_small", RESNET, "beat contrast", True),
        ("cpc_small", S4, "cpc", False),
        (
            "latent_prediction_small",
            (*STEM, "pretrain.predictor={width: 16, depth: 1, heads: 2}"),
            "latent prediction",
            False,
        ),
    ],
)
def test_a_launch_pretrains_and_fine_tunes_from_it(
    place: Path, pretrain: str, network: tuple[str, ...], word: str, figure: bool
) -> None:
    done = launch(
        place,
        f"cohort.root={place}/cohort",
        f"pretrain={pretrain}",
        *network,
        *TINY_COHORT,
        *FINETUNE,
        *ALONE,
    )
    assert done.status == 0, done.output + done.errors
    children = {run.info.run_name: run for run in done.children}
    (name,) = (name for name in children if name.startswith("pretrain "))
    run = children[name]
    assert "val/spread" in run.data.metrics
    assert any(f"from {word} " in name for name in children)
    folder = Path(done.client.download_artifacts(run.info.run_id, ""))
    assert any(folder.glob("reconstruction/*.png")) == figure
    report = done.artifact("report.html").read_text()
    assert "The pretraining ended on its plateau" in report  # after four steps it has
    checkpoint = next(folder.rglob("model.ckpt"))
    kept = torch.load(checkpoint, weights_only=True)
    module = load_trained(checkpoint)
    samples = kept["hyper_parameters"]["network"]["shape"]["samples"]
    assert module.embed({"ecg": torch.randn(2, 12, samples)}).isfinite().all()
