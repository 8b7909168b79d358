import pytest

from experiments import bench


def test_training_is_measured_for_each_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    tiny = ["network.settings={width: 16, depth: 1, heads: 2}", "trainer.accelerator=cpu"]
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


def test_an_unknown_benchmark_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["sleeping"]) == 2
    assert "reading" in capsys.readouterr().err
