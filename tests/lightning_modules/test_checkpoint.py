from pathlib import Path

import pytest
import torch
from tiny import autoencoder, classifier, ecgs, exams, trainer

from lightning_modules.checkpoint import load_classifier, load_trained
from lightning_modules.classifier import Classifier
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    module = classifier(about={"target": "lvsd", "ranges": {"ecg": [0.1, 4.0]}})
    fit = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    fit.fit(module, exams())
    fit.save_checkpoint(tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def test_a_checkpoint_says_what_it_holds(checkpoint: Path) -> None:
    module = load_classifier(checkpoint)
    assert type(module) is Classifier
    assert module.hparams["about"] == {"target": "lvsd", "ranges": {"ecg": [0.1, 4.0]}}
    assert not module.training
    assert classifier().hparams["about"] == {}


@pytest.mark.parametrize(
    "content", [b"", b"patient_id,exam_id\np1,e1\n", b"PK\x03\x04", b"\x80\x05"]
)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.ckpt: not a checkpoint that can be read"):
        load_classifier(path)


def test_a_cut_checkpoint_is_refused(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="not a checkpoint that can be read"):
        load_classifier(checkpoint)


def test_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "model.ckpt"):
        with pytest.raises(ValueError, match="there is no such file"):
            load_classifier(path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match="tensor.pt: not a checkpoint of a model that this soft"):
        load_classifier(tmp_path / "tensor.pt")


def test_a_pretraining_is_rebuilt_and_answers_nothing(tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    module = autoencoder()
    module.input, module.about = {"_target_": "datamodules.inputs.ecg.ECG"}, {"name": "mae"}
    fit.fit(module, ecgs(torch.randn(8, 12, 100)))
    fit.save_checkpoint(tmp_path / "mae.ckpt", weights_only=True)
    with pytest.raises(ValueError, match="mae.ckpt: a pretraining's checkpoint, which answers not"):
        load_classifier(tmp_path / "mae.ckpt")
    rebuilt = load_trained(tmp_path / "mae.ckpt")
    assert isinstance(rebuilt, MaskedAutoencoder)
    assert (rebuilt.input, rebuilt.about) == (module.input, module.about)
    batch = {"ecg": torch.randn(2, 12, 100)}
    torch.testing.assert_close(rebuilt.embed(batch), module.eval().embed(batch))
    kept = torch.load(tmp_path / "mae.ckpt", weights_only=True)
    torch.save({**kept, "input": {"_target_": "mine.Input"}}, tmp_path / "mine.ckpt")
    with pytest.raises(ValueError, match=r"allow=\[mine\]"):
        load_trained(tmp_path / "mine.ckpt")


def test_a_checkpoint_of_another_version_is_refused(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for changes in (
        {"hyper_parameters": {**content["hyper_parameters"], "colour": 1}},
        {"state_dict": {}},
    ):
        torch.save({**content, **changes}, checkpoint)
        with pytest.raises(ValueError, match=r"another version of lightning_modules\.classifier"):
            load_classifier(checkpoint)
