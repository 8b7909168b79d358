from pathlib import Path

import numpy as np
import pytest
import wfdb

from experiments import bench


def test_training_is_measured_for_each_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    networks = ["network=vit_micro", "network@baseline=resnet1d_small", "pretrain=mae_small"]
    sizes = ["network.settings={width: 16, depth: 1, heads: 2}", "trainer.accelerator=cpu"]
    tiny = [*networks, *sizes]
    assert bench.main(["training", *tiny, "pretrain.batch_size=2", "finetune.batch_size=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("pretraining vit_micro", "fine-tuning vit_micro", "fine-tuning resnet1d_small"):
        assert any(line.startswith(name) and "ECG/s" in line for line in lines)


def test_reading_is_compared_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    assert bench.main(["reading"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("wfdb.rdsamp", "read_recording", "Store.read"))


def test_the_statistics_are_timed_beside_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["evaluation", "exams=700"]) == 0
    shown = capsys.readouterr().out
    for name in (
        "AUROCs of 10 models",
        "all pairs of 10",
        "clustered bootstrap",
        "scikit-learn",
        "MLstatkit",
    ):
        assert name in shown


def test_the_report_of_many_labels_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["evaluation", "labels=2", "exams=150"]) == 0
    shown = capsys.readouterr().out
    assert "2 labels" in shown
    assert "report.html" in shown
    assert "s of processor time" in shown


def test_the_ptbxl_benchmark_is_measured_from_folder_to_predictions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench.main(["ptbxl", "records=400"]) == 0
    shown = capsys.readouterr().out
    for name in ("writing 400 records", "tables and labels", "packing", "steps each", "folds 9"):
        assert name in shown


def test_r_waves_are_compared_with_annotations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["beats", f"root={tmp_path}"]) == 2
    assert "there is no WFDB record of an ECG of 10 s or more" in capsys.readouterr().err

    beats = np.arange(180, 7200, 288)  # every 0.8 s of 20 s at 360 Hz
    time = np.arange(7200)
    ecg = np.exp(-(((time[:, None] - beats) / 5) ** 2) / 2).sum(1)
    names = {"units": ["mV"], "sig_name": ["MLII"], "fmt": ["16"], "write_dir": str(tmp_path)}
    wfdb.wrsamp("a", 360, p_signal=ecg[:, None], adc_gain=[1000.0], baseline=[0], **names)
    # Three are not annotated, one that is not there is; a change of rhythm (+) is no beat.
    told = np.sort(np.r_[np.delete(beats, [3, 7, 20]), beats[10] + 144, 100])
    symbols = ["+" if sample == 100 else "N" for sample in told]
    wfdb.wrann("a", "atr", told, symbols, write_dir=str(tmp_path))
    assert bench.main(["beats", f"root={tmp_path}"]) == 0
    (line,) = [of for of in capsys.readouterr().out.splitlines() if of.startswith("R waves of")]
    inside = sum(0.2 < beat / 360 % 10 < 9.8 for beat in beats)
    assert "R waves of all leads, against annotated beats" in line
    assert f"sensitivity {(inside - 3) / (inside - 2):.4f} of {inside - 2}, " in line
    assert line.endswith(f"precision {(inside - 3) / inside:.4f} of {inside}")


def test_an_unknown_benchmark_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["sleeping"]) == 2
    assert "reading" in capsys.readouterr().err
