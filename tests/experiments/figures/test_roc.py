"""ROC curves against scikit-learn's."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc, roc_auc_score

from experiments.evaluation.roc_bands import roc_bands
from experiments.figures.roc import roc_figure


@pytest.fixture(scope="module")
def predictions():
    generator = np.random.default_rng(0)
    parts = []
    for model in ("mae", "cnn"):
        for institution, split in (
            ("home", "test"), ("a", "external"), ("b", "external"), ("c", "external"),
            ("d", "external"),
        ):  # fmt: skip
            target = np.arange(50) % 4 == 0 if institution != "b" else np.zeros(50, dtype=bool)
            part = {"probability": generator.beta(2 + target, 3), "target": target.astype(int)}
            ids = {"patient_id": np.arange(50).astype(str), "exam_id": np.arange(50).astype(str)}
            parts.append(
                pd.DataFrame(
                    {"model": model, "institution": institution, "split": split} | ids | part
                )
            )
    return pd.concat(parts, ignore_index=True)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_panel_an_external_institution_with_all_models(predictions):
    figure = roc_figure(predictions, "LVSD")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c", "d"]
    for axes in figure.axes:
        institution = axes.get_title(loc="left")
        curves = {line.get_gid(): line for line in axes.get_lines() if line.get_gid()}
        if institution == "b":
            assert not curves
            assert legend(axes) == ["mae  not estimable", "cnn  not estimable"]
            continue
        for number, model in enumerate(("mae", "cnn")):
            exams = predictions[
                (predictions["model"] == model) & (predictions["institution"] == institution)
            ]
            expected = roc_auc_score(exams["target"], exams["probability"])
            assert auc(*curves[f"roc-{model}"].get_data()) == pytest.approx(expected)
            assert legend(axes)[number] == f"{model}  {expected:.3f}"
        assert len({str(line.get_linestyle()) for line in curves.values()}) == 2


def test_panels_are_square_and_apart(predictions):
    figure = roc_figure(predictions, "LVSD")
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert box.width * width == pytest.approx(box.height * height)
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_without_external_institutions_the_internal_test_is_shown(predictions):
    figure = roc_figure(predictions[predictions["split"] == "test"], "LVSD")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["home (internal test)"]


def test_bands_lie_about_the_curves(predictions):
    bands = roc_bands(predictions, confidence=0.95, resamples=200, seed=1)
    figure = roc_figure(predictions, "LVSD", bands=bands[bands["model"] == "mae"])
    for axes in figure.axes:
        drawn = [band.get_gid() for band in axes.collections]
        assert drawn == ([] if axes.get_title(loc="left") == "b" else ["band-mae"])
    (band,) = figure.axes[0].collections
    (curve,) = (line for line in figure.axes[0].get_lines() if line.get_gid() == "roc-mae")
    corners = band.get_paths()[0].vertices
    middle = corners[np.isclose(corners[:, 0], 0.3)][:, 1]
    assert middle.min() < np.interp(0.3, *curve.get_data()) < middle.max()


def test_many_models_share_one_legend_beside_the_panels(predictions):
    several = [predictions.assign(model=predictions["model"] + str(n)) for n in range(4)]
    figure = roc_figure(pd.concat(several, ignore_index=True), "LVSD")
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert "not estimable" in [text.get_text() for text in figure.axes[1].texts]
    (common,) = figure.legends
    names = [text.get_text() for text in common.get_texts()]
    assert sorted(names) == sorted(f"{m}{n}" for n in range(4) for m in ("mae", "cnn"))


def test_a_model_without_a_curve_is_counted_in_a_crowded_panel(predictions):
    at_a = predictions["institution"] == "a"
    several = [predictions.assign(model=predictions["model"] + str(n)) for n in range(4)]
    several[0] = several[0].assign(target=several[0]["target"].where(~at_a, 0))
    figure = roc_figure(pd.concat(several, ignore_index=True), "LVSD")
    words = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert "2 of 8 models not estimable" in words[0]
    assert not any("not estimable" in word for word in words[2])


def test_few_models_with_long_names_share_the_legend_too(predictions):
    figure = roc_figure(predictions.replace({"model": {"mae": "m" * 40}}), "LVSD")
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert len(figure.legends) == 1


def test_a_panel_with_a_legend_says_what_is_not_estimable_once(predictions):
    empty = roc_figure(predictions, "LVSD").axes[1]
    assert "not estimable" not in [text.get_text() for text in empty.texts]
