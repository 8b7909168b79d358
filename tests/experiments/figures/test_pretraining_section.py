"""What a report says of a study's pretrainings, whatever they are."""

import numpy as np
import pandas as pd

from experiments.figures import about
from experiments.figures.ecg_paper import sheets_figure
from experiments.figures.html import Report, Section, render
from experiments.figures.study import Pretraining, Study
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder

KIND = MaskedAutoencoder
PRETRAININGS = {
    "north": {"val/explained_variance": 0.812, "val/explained_variance_least_squares": 0.74},
    "south": {"val/explained_variance": 0.471, "val/explained_variance_least_squares": 0.741},
}


def section(*held_out):
    numbers = {name: PRETRAININGS[name] for name in held_out}
    rows = [
        {"held out": name if len(held_out) > 1 else "", "exams": 1234}
        | {column: of[metric] for metric, (column, _) in KIND.numbers.items()}
        for name, of in numbers.items()
    ]
    ecg = np.zeros((12, 100))
    example = {"original": ecg, "visible": ecg == 0, "reconstruction": ecg}
    made = Pretraining(
        pd.DataFrame(rows),
        dict(KIND.numbers.values()),
        KIND.summary(list(numbers.values())),
        sheets_figure(KIND.sheets(example), 100.0, "a validation exam"),
        KIND.example_caption,
    )
    study = Study(name="lvsd", target="lvsd", pretraining=made)
    return about.pretraining(None, study)


def test_each_folds_pretraining_has_its_row():
    said, table, picture = section("north", "south")
    assert "1 of 2 autoencoders learned more than that" in said.text
    shown = table.shown
    assert list(shown["held out"]) == ["north", "south"]
    assert list(shown["explained by the autoencoder"]) == ["0.812", "0.471"]
    assert list(shown["explained by least squares"]) == ["0.740", "0.741"]
    assert list(shown["exams"]) == ["1,234"] * 2
    assert (picture.name, picture.caption) == ("pretraining", KIND.example_caption)
    assert set(table.files()) == {"pretraining.csv", "pretraining.tex"}
    html = render(
        Report("", "", {}, [Section("pretraining", "Pretraining", [said, table, picture])])
    )
    assert 'id="figure-pretraining"' in html


def test_one_pretraining_holds_nobody_out():
    said, table, _ = section("south")
    assert "the autoencoder has not learned more than that" in said.text
    assert "held out" not in table.shown


def test_without_one_there_is_no_section():
    assert about.pretraining(None, Study(name="lvsd", target="lvsd")) == []
