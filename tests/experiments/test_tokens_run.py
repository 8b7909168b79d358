"""The real command with a masked autoencoder on beats, and on instants of a stem, of few leads."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from command import TINY, TINY_COHORT, launch

from datamodules.beats import find_beats
from lightning_modules.checkpoint import load_trained
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder

EIGHT = "ecg.leads=[I,II,V1,V2,V3,V4,V5,V6]"
VIT = ("network=vit_micro", "pretrain=mae_small")


@pytest.mark.parametrize("tokens", ["beats", "stem"])
def test_a_launch_on_other_tokens_of_eight_leads(tmp_path: Path, tokens: str) -> None:
    done = launch(
        tmp_path,
        f"cohort.root={tmp_path}/cohort",
        f"tokens={tokens}",
        EIGHT,
        *VIT,
        *TINY_COHORT,
        *TINY,
        "~models.scratch",
        "~models.cnn",
    )
    assert done.status == 0, done.output + done.errors
    (run,) = (r for r in done.children if r.info.run_name.startswith("pretrain "))
    assert {"val/explained_variance", "val/explained_variance_least_squares"} <= set(
        run.data.metrics
    )
    folder = Path(done.client.download_artifacts(run.info.run_id, ""))
    figure = next(folder.glob("reconstruction/*.png"))
    assert matplotlib.image.imread(figure).std() > 0
    checkpoint = next(folder.rglob("model.ckpt"))
    module = load_trained(checkpoint)
    assert isinstance(module, MaskedAutoencoder)
    assert module.input["leads"] == ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
    tokens_kept = torch.load(checkpoint, weights_only=True)["hyper_parameters"]["tokens"]
    assert tokens_kept["_target_"].endswith(f"{tokens.title().removesuffix('s')}Tokens")
    # A beat put back lies at a beat; an absent lead is never predicted.
    time = np.arange(1000) / 100
    beat = sum(np.exp(-(((time - at) / 0.015) ** 2) / 2) for at in np.arange(0.6, 9.8, 0.9))
    ecg = torch.tensor(np.outer(np.arange(1, 9), beat)[None], dtype=torch.float32)
    ecg[:, 3] = 0
    visible, rebuilt = module.reconstruct(ecg)
    assert visible.shape == rebuilt.shape == (1, 8, 1000)
    torch.testing.assert_close(rebuilt[visible], ecg[visible])
    if tokens == "beats":
        (peaks,) = find_beats(ecg, 100).peaks
        inner = peaks[(peaks > 34) & (peaks < 946)]
        covered = ~rebuilt[0, 0].isnan()
        assert covered[inner].sum() == 8
        assert rebuilt[:, 3].isnan().all()
        assert 0.3 < covered.float().mean() < 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["tokens=beats", "ecg.sampling_rate_hz=40", "ecg.low_pass_hz=15"], "from 50 samples a"),
        (["tokens=beats", "tokens.after_seconds=12"], "do not fit into the signal's 10 s"),
        (["tokens.patch_samples=1500"], "1000 samples are not a whole number of 1500-patches"),
        (["tokens=stem", "tokens.strides=[3]"], "1000 samples are not a whole number of 3-patches"),
        (["tokens=beats", "tokens.beat=4"], "unexpected keyword argument 'beat'"),
        (["ecg.leads=[I,I]"], "name each at most once"),
        (["ecg.leads=[V7]"], "name each at most once, of I, II, III"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_begins(
    tmp_path: Path, settings: list[str], told: str
) -> None:
    done = launch(tmp_path, *VIT, *settings)
    assert done.status == 2
    assert told in done.errors
    assert "Traceback" not in done.errors
