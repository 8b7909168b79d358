"""What the pretrainings of features over time have in common, and each one's own numbers."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from simulated import NETWORK, RATE_HZ, S4, SAMPLES, SHARED, STEM, XRESNET, simulated
from tiny import ECG, classifier, ecgs, trainer
from torch.utils.data import DataLoader

from lightning_modules.checkpoint import load_trained
from lightning_modules.pretraining.beat_contrast import BeatContrast
from lightning_modules.pretraining.contrastive_predictive_coding import ContrastivePredictiveCoding
from lightning_modules.pretraining.latent_prediction import LatentPrediction
from lightning_modules.pretraining.over_time import OverTime
from lightning_modules.pretraining.pretraining import Verdict

BEAT = {
    "rate_hz": RATE_HZ,
    "waves_seconds": [-0.3, -0.06, 0.08, 0.22, 0.5],
    "shift_seconds": 0.04,
    "variates": 8,
    "ridge": 0.02,
    "beside": 0.2,
    "temperature": 0.1,
    "projection": [32, 16],
    "contrast": 1.0,
}
CPC = {
    "rate_hz": RATE_HZ,
    "piece_seconds": 0.1,
    "ahead": 3,
    "least_seen": 0.4,
    "temperature": 0.1,
    "width": 16,
}
LATENT = {
    "rate_hz": RATE_HZ,
    "span_seconds": 0.4,
    "mask_ratio": 0.4,
    "teacher_momentum": 0.8,
    "predictor": {"width": 16, "depth": 1, "heads": 2},
}
SETTINGS = {
    BeatContrast: {**BEAT, "plateau_explained": 0.1},
    ContrastivePredictiveCoding: {**CPC, "plateau_found": 0.1},
    LatentPrediction: {**LATENT, "plateau_latents_explained": 0.03},
}
KINDS = list(SETTINGS)


def made(kind: type[OverTime], network: dict[str, Any] = NETWORK, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings = {**SETTINGS[kind], **SHARED, "collapse_spread": 0.05, **changes}
    module = kind.build(
        settings,
        reads="ecg",
        network={**network, "name": "tiny", "layer_decay": 1.0},
        statistics={},
        effective_batch=32,
        seed=3,
    )
    if isinstance(module, BeatContrast):  # as a launch's DataModule has it do
        module.fit_variates([simulated(96, uneven=20)[0]])
    return module


def judged(kind: type[OverTime], metrics: dict[str, float]) -> Any:
    return kind.verdict(metrics, {**SETTINGS[kind], "collapse_spread": 0.05})


def validated(module: OverTime, ecg: torch.Tensor, folder: Path) -> dict[str, float]:
    (logged,) = trainer(folder).validate(module, ecgs(ecg), verbose=False)
    return {name: float(value) for name, value in logged.items()}


# What each must reach on held-out exams within so many steps, and its yardstick.
LEARNS = [
    (BeatContrast, 60, "val/explained", 0.25, None),
    (BeatContrast, 60, "val/found", 0.8, "val/found_by_amplitude"),
    (ContrastivePredictiveCoding, 120, "val/future_found", 0.14, "val/future_found_by_repeating"),
    (LatentPrediction, 150, "val/latents_explained", 0.04, "val/latents_explained_by_mean"),
]
LEARNED: dict[type[OverTime], tuple[dict[str, float], dict[str, float]]] = {}


@pytest.mark.parametrize(("kind", "steps", "metric", "least", "yardstick"), LEARNS)
def test_it_learns_and_beats_its_yardstick(
    kind: type[OverTime],
    steps: int,
    metric: str,
    least: float,
    yardstick: str | None,
    tmp_path: Path,
) -> None:
    if kind not in LEARNED:
        ecg, _, _ = simulated(160, uneven=20)
        module = made(kind, base_learning_rate=0.03)
        before = validated(module, ecg[128:], tmp_path)
        batches = DataLoader(
            [{"ecg": e} for e in ecg[:128]],  # type: ignore[arg-type]
            batch_size=32,
            shuffle=True,
            generator=torch.Generator().manual_seed(0),
        )
        trainer(tmp_path, max_steps=steps).fit(module, batches)
        LEARNED[kind] = before, validated(module, ecg[128:], tmp_path)
    before, after = LEARNED[kind]
    assert before[metric] < least < after[metric]
    assert yardstick is None or after[yardstick] < after[metric]
    assert after["val/loss"] < 0.8 * before["val/loss"]
    assert judged(kind, before).failed.startswith("ended on its plateau")
    assert judged(kind, after) == Verdict()


@pytest.mark.parametrize("network", [NETWORK, S4, XRESNET])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_starts_from_its_encoder(kind: type[OverTime], network: dict[str, Any]) -> None:
    module = made(kind, network)
    model = classifier({**network})
    torch.manual_seed(1)
    for parameter in module.network.parameters():
        parameter.data += torch.randn_like(parameter)
    encoder = kind.encoder(module.state_dict(), model.network)
    heads = {name for name in model.network.state_dict() if name.startswith("head.")}
    assert heads
    assert encoder.keys() == model.network.state_dict().keys() - heads
    model.load_encoder(encoder)
    ecg = simulated(4)[0]
    model.eval()
    module.eval()
    mapped = model.network.forward_map(ecg)
    torch.testing.assert_close(mapped.mean(2), module.embed({"ecg": ecg}))
    seen = model.network.forward_features(ecg)  # the mean, or the maximum and the mean
    torch.testing.assert_close(seen[:, -mapped.shape[1] :], mapped.mean(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_vision_transformer_of_instants_is_a_network_of_one_length(kind: type[OverTime]) -> None:
    module = made(kind, STEM).eval()
    model = classifier(STEM)
    model.load_encoder(kind.encoder(module.state_dict(), model.network))
    ecg = simulated(2)[0]
    torch.testing.assert_close(model.eval().network.forward_map(ecg), module.forward_map(ecg))
    assert (module.width, module.instants) == (16, 40)
    behind = ecg.clone()
    behind[..., 200:] = 0
    half = module.forward_map(ecg[..., :200])
    torch.testing.assert_close(half, module.forward_map(behind)[..., :20])


def test_a_vision_transformer_of_one_leads_patches_has_no_features_over_time() -> None:
    tokens = {"_target_": "lightning_modules.networks.tokens.TimeTokens", "patch_samples": 10}
    with pytest.raises(ValueError, match="tokens=stem"):
        made(LatentPrediction, {**STEM, "settings": {**STEM["settings"], "tokens": tokens}})


@pytest.mark.parametrize("kind", KINDS)
def test_its_checkpoint_is_of_plain_values_and_loads(kind: type[OverTime], tmp_path: Path) -> None:
    ecg = simulated(8)[0]
    module = made(kind)
    module.input = ECG
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(module, ecgs(ecg))
    fit.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    kept = torch.load(tmp_path / "model.ckpt", weights_only=True)
    json.dumps(kept["hyper_parameters"])
    assert kept["hyper_parameters"]["network"].keys() == {"_target_", "settings", "shape"}
    loaded = load_trained(tmp_path / "model.ckpt")
    torch.testing.assert_close(loaded.embed({"ecg": ecg}), module.eval().embed({"ecg": ecg}))


class Cut(L.Callback):
    """Seeds each step; keeps the state after `step` and cuts the training there."""

    def __init__(self, step: int | None, kept: Path) -> None:
        self.step, self.kept = step, kept

    def on_train_batch_start(self, fit: L.Trainer, *given: Any) -> None:
        torch.manual_seed(fit.global_step)

    def on_train_epoch_end(self, fit: L.Trainer, *given: Any) -> None:
        if fit.global_step == self.step:
            fit.save_checkpoint(self.kept)
            raise ConnectionError("cut")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_one_goes_on_as_if_it_had_not_been(kind: type[OverTime], tmp_path: Path) -> None:
    batches, kept = ecgs(simulated(8)[0]), tmp_path / "cut.ckpt"

    def fit(module: OverTime, step: int | None = None, start: Path | None = None) -> OverTime:
        fit = trainer(tmp_path, max_steps=4, callbacks=[Cut(step, kept)])
        fit.fit(module, batches, ckpt_path=start, weights_only=True)
        return module

    whole = fit(made(kind))
    with pytest.raises(ConnectionError):
        fit(made(kind), step=2)
    torch.manual_seed(5)
    resumed = fit(made(kind), start=kept)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_collapsed_encoder_is_told(kind: type[OverTime], tmp_path: Path) -> None:
    ecg = simulated(16)[0]
    module = made(kind)
    last = module.network.stages[-1].convolutions[-1]
    shortcut = module.network.stages[-1].shortcut[-1]
    for norm in (last, shortcut):  # every exam alike, but for a hundredth
        norm.weight.data *= 0.01
        norm.bias.data += 1.0
    metrics = validated(module, ecg, tmp_path)
    # By hand: the deviation of the embeddings over exams, by their length.
    embedded = module.eval().embed({"ecg": ecg}).detach().numpy()
    apart = np.mean([np.var(part, axis=0, ddof=1).sum() for part in np.split(embedded, 2)])
    by_hand = np.sqrt(apart / np.square(embedded).sum(1).mean())
    assert metrics["val/spread"] == pytest.approx(by_hand, rel=1e-3)
    assert metrics["val/spread"] < 0.05
    assert judged(kind, metrics).failed.startswith("collapsed")


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_it_cannot_take_is_refused(kind: type[OverTime]) -> None:
    mlp = {"_target_": "lightning_modules.networks.cxr.TimmNetwork", "settings": {}, "shape": {}}
    with pytest.raises(ValueError, match=r"TimmNetwork can't be pretrained as .*forward_map"):
        made(kind, mlp)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        (
            BeatContrast,
            {"waves_seconds": [-0.3, 1.8]},
            "half of 400 samples is shorter than a beat",
        ),
        (BeatContrast, {"waves_seconds": [-0.3, 0.5, 0.2]}, "in rising order"),
        (BeatContrast, {"variates": 2000}, "variates 2000 is not between 1 and 962"),
        (ContrastivePredictiveCoding, {"ahead": 30}, "30 pieces ahead of the first 16 are more"),
        (LatentPrediction, {"mask_ratio": 0.01}, "hides 0 of 10 spans"),
    ],
)
def test_settings_that_do_not_fit(kind: type[OverTime], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(kind, **changes)


# --- contrast of halves with prediction of what waves share


def test_an_exam_is_told_by_its_average_beat_and_rhythm() -> None:
    ecg, beat, every = simulated(24)
    described = made(BeatContrast).described(ecg)
    difference = (described[:, :-2].view_as(beat) - beat).square().mean((1, 2)).sqrt()
    assert difference.median() < 0.05  # the noise is 0.05, a beat's median is over three and more
    torch.testing.assert_close(described[:, -2], (every / RATE_HZ).log(), atol=0.02, rtol=0)
    flat = made(BeatContrast).described(torch.zeros(2, 12, SAMPLES))
    assert flat[:, -2:].isnan().all()
    assert flat[:, :-2].isfinite().all()


def test_its_targets_are_canonical_variates_of_the_training_exams() -> None:
    module = made(BeatContrast)
    ecg = simulated(96, uneven=20)[0]
    module.fit_variates(ecg.split(40))
    targets = module.targets(ecg)
    np.testing.assert_allclose(targets.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(targets.T @ targets / len(ecg), np.eye(8), atol=1e-2)
    assert (module.shared.diff() <= 0).all()
    again = {name: of.clone() for name, of in module.state_dict().items()}
    module.on_fit_start()  # fitted once, for good
    assert all(of.equal(module.state_dict()[name]) for name, of in again.items())


def test_a_head_is_told_what_is_shared_most() -> None:
    module = made(BeatContrast)
    module.fit_variates([simulated(96, uneven=20)[0]])
    kept = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    told = BeatContrast.directions(kept)
    weight = module.prediction.weight
    torch.testing.assert_close(told.weights[0], weight[0])
    share = module.shared[3] / module.shared[0]
    torch.testing.assert_close(told.weights[3], share * weight[3])
    assert told.beside == 0.2


def test_its_losses_by_hand() -> None:
    module = made(BeatContrast)
    pooled = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    module.shared.copy_(torch.arange(8.0, 0, -1))
    contrast, prediction = (loss.item() for loss in module.losses(pooled, targets))
    projected = module.projection(pooled).detach().numpy()
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    terms = []
    for half in range(8):
        scores = {k: projected[half] @ projected[k] / 0.1 for k in range(8) if k != half}
        other = (half + 4) % 8
        terms.append(np.log(np.sum(np.exp(list(scores.values())))) - scores[other])
    assert contrast == pytest.approx(np.mean(terms), rel=1e-4)
    predicted, wanted = module.prediction(pooled).detach().numpy(), targets.repeat(2, 1).numpy()
    weights = np.sqrt(np.arange(8.0, 0, -1))
    error = ((predicted - wanted) ** 2 * weights / weights.mean()).mean()
    assert prediction == pytest.approx(error, rel=1e-4)


def test_its_example_lays_the_predicted_beat_on_every_beat() -> None:
    ecg, beat, _ = simulated(1)
    module = made(BeatContrast).eval()
    with torch.no_grad():
        module.prediction.weight.zero_()
        module.prediction.bias.copy_(torch.eye(8)[0])
        module.back[0, :-2] = beat.flatten()
        module.mean.zero_()
        example = module.example(ecg, lambda prepared: 2 * prepared)
    torch.testing.assert_close(example["original"], 2 * ecg[0])
    laid, there = example["reconstruction"], example["reconstruction"].isfinite()
    assert 0.5 < there.float().mean() <= 1
    assert ((laid / 2 - ecg[0])[there]).square().mean().sqrt() < 0.2
    (sheet,) = BeatContrast.sheets({name: of.numpy() for name, of in example.items()})
    assert list(sheet.signals) == ["hidden", "reconstruction"]


# --- contrastive predictive coding


@pytest.mark.parametrize("network", [NETWORK, S4, XRESNET])
def test_what_predicts_knows_nothing_of_the_future(network: dict[str, Any]) -> None:
    ecg = simulated(3)[0]
    module = made(ContrastivePredictiveCoding, network).eval()
    other = ecg.clone()
    other[..., 200:] = torch.randn(3, 12, 200)
    seen, changed = (module.forward_map(of[..., :200]) for of in (ecg, other))
    torch.testing.assert_close(seen, changed)
    # The scores of pieces that were seen too, since only the pieces ahead have changed.
    before, after = (module.logits(of, 20)[:, :, :20] for of in (ecg, other))
    torch.testing.assert_close(before, after)
    assert not torch.allclose(module.logits(ecg, 20), module.logits(other, 20))


def test_its_scores_by_hand() -> None:
    ecg = simulated(3)[0]
    module = made(ContrastivePredictiveCoding).eval()
    logits = module.logits(ecg, 20).detach().numpy()
    assert logits.shape == (3, 3, 40 + 3)
    assert module.truth(3, 20).tolist() == [[20, 21, 22]] * 3
    features = module.network.forward_map(ecg[..., :200])
    seen = torch.cat([features.mean(2), features[..., -1]], 1)
    predicted = module.prediction(seen).detach().numpy().reshape(3, 3, 16)
    pieces = np.stack(
        [module.local(ecg[..., at : at + 10])[..., 0].detach().numpy() for at in range(0, 400, 10)]
    )

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    for exam, step, piece in ((0, 0, 20), (1, 2, 3), (2, 1, 39)):
        by_hand = cosine(predicted[exam, step], pieces[piece, exam]) / 0.1
        assert logits[exam, step, piece] == pytest.approx(by_hand, abs=1e-4)
    assert logits[0, 1, 40 + 2] == pytest.approx(
        cosine(predicted[0, 1], pieces[21, 2]) / 0.1, abs=1e-4
    )
    assert np.isneginf(logits[[0, 1, 2], :, [40, 41, 42]]).all()


def test_its_yardstick_repeats_the_last_beats() -> None:
    ecg = simulated(2)[0]
    time = torch.arange(SAMPLES)
    for exam, every in enumerate((50, 75)):  # perfectly regular, without noise
        phase = (time - 20) % every
        wave = torch.exp(-(((phase - 10) / 2.0) ** 2)) + 0.3 * phase / every
        ecg[exam] = torch.linspace(0.5, 1.5, 12)[:, None] * wave
    module = made(ContrastivePredictiveCoding)
    nearest = module.repeating(ecg, 30).max(2)
    # Nothing is nearer than what comes, and the same piece of other beats is as near.
    true = nearest.values[0] - module.repeating(ecg, 30)[0, range(3), [30, 31, 32]]
    assert true.abs().max() < 1e-2


# --- latent prediction


def test_its_teacher_follows_the_student_and_learns_nothing_itself(tmp_path: Path) -> None:
    module = made(LatentPrediction, base_learning_rate=0.1)
    before = module.network.stem[0].weight.clone()
    trainer(tmp_path, max_steps=1).fit(module, ecgs(simulated(8)[0]))
    assert all(parameter.grad is None for parameter in module.network.parameters())
    student = module.student.stem[0].weight
    assert not torch.allclose(student, before)
    # 0.8 rising to 1 with the steps: after the only step it is 1, and the teacher stays.
    torch.testing.assert_close(module.network.stem[0].weight, before)
    module = made(LatentPrediction, base_learning_rate=0.1)
    fit = trainer(tmp_path, max_steps=2, callbacks=[Cut(1, tmp_path / "cut.ckpt")])
    with pytest.raises(ConnectionError):
        fit.fit(module, ecgs(simulated(8)[0]))
    teacher, student = module.network.stem[0].weight, module.student.stem[0].weight
    torch.testing.assert_close(teacher, 0.9 * before + 0.1 * student)


def test_the_student_does_not_see_what_is_hidden() -> None:
    ecg = simulated(2)[0]
    module = made(LatentPrediction).eval()
    spans = torch.zeros(2, 10, dtype=torch.bool)
    spans[:, 4:6] = True  # 1.6 to 2.4 s
    other = ecg.clone()
    other[..., 160:240] += torch.randn(2, 12, 80)
    predictions, latents, hidden = module.predicted(ecg, spans)
    again, others, _ = module.predicted(other, spans)
    torch.testing.assert_close(predictions, again)
    assert not torch.allclose(latents, others)
    instants = np.arange(module.instants) + 0.5
    middle = instants * SAMPLES / module.instants
    np.testing.assert_array_equal(hidden[0], (middle >= 160) & (middle < 240))
    torch.testing.assert_close(
        latents.mean(2), torch.zeros_like(latents[..., 0]), atol=1e-4, rtol=0
    )


def test_so_many_spans_are_hidden() -> None:
    drawn = made(LatentPrediction).drawn(50)
    assert drawn.shape == (50, 10)
    assert (drawn.sum(1) == 4).all()
    assert len({tuple(row) for row in drawn.tolist()}) > 10


# --- in words


BEAT_METRICS = {
    "val/explained": 0.8,
    "val/found": 0.9,
    "val/found_by_amplitude": 0.7,
    "val/spread": 0.5,
}
CPC_METRICS = {"val/future_found": 0.3, "val/future_found_by_repeating": 0.2, "val/spread": 0.5}
LATENT_METRICS = {
    "val/latents_explained": 0.4,
    "val/latents_explained_by_mean": 0.3,
    "val/spread": 0.5,
}


@pytest.mark.parametrize(
    ("kind", "good", "behind", "told"),
    [
        (
            BeatContrast,
            BEAT_METRICS,
            {"val/found": 0.6},
            "shared variates explained 0.800, halves found 0.900 (by amplitudes alone 0.700)",
        ),
        (
            ContrastivePredictiveCoding,
            CPC_METRICS,
            {"val/future_found": 0.15},
            "future found 0.300 (by repeating the last beats 0.200)",
        ),
        (
            LatentPrediction,
            LATENT_METRICS,
            {"val/latents_explained": 0.2},
            "latents explained 0.400, by the exam's mean 0.300",
        ),
    ],
)
def test_its_words(
    kind: type[OverTime], good: dict[str, float], behind: dict[str, float], told: str
) -> None:
    behind = {**good, **behind}
    assert kind.told(good) == told
    assert judged(kind, good) == Verdict()
    assert judged(kind, behind).remark.endswith("longer pretraining may pay.")
    assert judged(kind, {**good, "val/spread": 0.01}).failed == (
        "collapsed: its embeddings of different exams differ by 1 % of their length"
    )
    assert judged(kind, dict.fromkeys(good, 0.0) | {"val/spread": 0.5}).failed
    assert kind.numbers.keys() <= good.keys()
    assert {*kind.judging} <= {*SETTINGS[kind], "collapse_spread"}
    assert "2 of 3 encoders" in kind.summary([good, behind, good])
    assert kind.summary([good]) != kind.summary([behind])
