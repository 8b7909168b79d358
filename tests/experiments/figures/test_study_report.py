"""The reviewer's report: whole, harmless, and silent about what it was not given."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.evaluation.analysis import Settings, analyse, aurocs
from experiments.evaluation.predictions import check_predictions
from experiments.evaluation.summary import summarise
from experiments.evaluation.tripod import ITEMS
from experiments.figures.html import Paragraph, Picture, Report, Section, render
from experiments.figures.report import build
from experiments.figures.study import Cohort, Pretraining, Study, Subsets
from experiments.figures.style import new_figure

SETTINGS = Settings(
    confidence=0.95,
    resamples=50,
    auroc_resamples=50,
    seed=3,
    sensitivity=0.9,
    partial_auroc_from=0.9,
    age_edges=(50, 65),
    decision_thresholds=(0.05, 0.1, 0.2, 0.3),
)
EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "link", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags, their attributes and the text; nesting is checked on the way."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def headings(self):
        return re.findall(r"<h2>", "".join(f"<{tag}>" for tag, _ in self.tags))


def cohort_and_predictions(institutions=("home", "north", "south"), seed=0, per_patient=1):
    """The first one is the development institution, the last one has no positive exam."""
    generator = np.random.default_rng(seed)
    exams, predictions = [], []
    for name in institutions:
        ids = np.arange(120)
        target = (ids % 4 == 0).astype(float)
        if name == institutions[-1] and len(institutions) > 2:
            target[:] = 0
        target[-6:] = np.nan
        role, splits = "external", np.full(120, "external")
        if name == institutions[0]:
            role, splits = "development", np.repeat(["train", "val", "test"], 40)
        table = pd.DataFrame(
            {
                "institution": name,
                "exam_id": ids.astype(str),
                "patient_id": (ids // per_patient).astype(str),
                "role": role,
                "split": splits,
                "target": target,
                "age_years": generator.normal(60, 12, 120),
                "sex": np.where(ids % 3 == 0, "female", "male"),
            }
        )
        exams.append(table)
        known = table[table["target"].notna() & (table["split"] != "train")]
        for model, gain in (("mae", 2.0), ("cnn", 1.0)):
            logit = gain * known["target"] - 1.5 + generator.normal(size=len(known))
            predictions.append(
                known[["institution", "split", "patient_id", "exam_id"]].assign(
                    model=model,
                    target=known["target"].astype(int),
                    logit=logit,
                    probability=1 / (1 + np.exp(-logit)),
                )
            )
    exams, predictions = pd.concat(exams), pd.concat(predictions)
    order = predictions["model"].map({"mae": 0, "cnn": 1})
    predictions = predictions.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)
    flow = [
        {
            "institution": name,
            "in manifest": len(part) + 3,
            "packed": len(part),
            "with target": int(part["target"].notna().sum()),
        }
        for name, part in exams.groupby("institution", sort=False)
    ]
    left_out = pd.DataFrame(
        {"institution": "north", "exam_id": "9", "path": "p", "reason": ["no such file"] * 9}
    )
    return Cohort(exams, pd.DataFrame(flow), left_out, {"LVSD": "target"}), predictions


STUDY = Study(
    "quickstart",
    "LVSD",
    rule="LVEF below 40 %",
    protocol="external_validation",
    models={"mae": "a transformer", "cnn": "a convolutional network"},
    splits={"train": 0.6, "val": 0.2, "test": 0.2},
    preprocessing={"ecg": "0.5 to 40 Hz"},
    simulated="Simulated patients: the order of models says nothing about hospitals.",
    limits=("The pretraining ended on its plateau.",),
    command="python -m experiments.run experiment=quickstart",
    commit="0c133d5",
    digests={"home": "abc123"},
    versions={"torch": "2.11.0"},
)


def built(predictions, study=STUDY, *, common=False, folds=(), **known):
    checked = check_predictions(predictions, "ours")
    found = aurocs(checked, SETTINGS, common=common)
    cohort = known.get("cohort")
    exams = None if cohort is None else cohort.exams
    analysis = analyse(found, SETTINGS, exams=exams, folds=folds)
    return build(analysis, replace(study, **known))


@pytest.fixture(scope="module")
def made():
    cohort, predictions = cohort_and_predictions()
    return built(predictions, cohort=cohort), predictions


@pytest.fixture(scope="module")
def page(made):
    return Page(made[0].html)


def test_it_needs_nothing_else_and_runs_nothing(made, page):
    assert len(made[0].html) < 5_000_000
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert not re.search(r"url\(|@import|https?://", made[0].html)
    anchors = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert links
    assert set(links) <= anchors


def test_pictures_are_svg_without_script_and_the_same_every_time(made, page):
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == len(made[0].figures) == 7
    for source in sources:
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert b"<script" not in base64.b64decode(data)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    cohort, predictions = cohort_and_predictions()
    assert built(predictions, cohort=cohort).html == made[0].html


def test_sections_and_headline_figures(made, page):
    assert len(page.headings) == 12
    summary = summarise(made[1], **SETTINGS.bootstrap)
    row = summary[(summary["model"] == "mae") & (summary["role"] == "pooled")].iloc[0]
    assert f"AUROC of {row['auroc']:.3f} (95 % interval {row['auroc_low']:.3f}" in page.text
    assert f"In {row['n']} exams ({row['positives']} positive) of 2 external" in page.text
    assert "It is not estimable at south." in page.text
    for told in (
        "SIMULATED", STUDY.simulated, STUDY.rule, STUDY.command, STUDY.commit, "2.11.0",
        "ended on its plateau", "All models learned from one institution (home)",
        "Of 369 exams 9 were left out for want of a usable input and 18 because LVSD",
        "Fewer than 100 exams of a class",
    ):  # fmt: skip
        assert told in page.text


def test_tables_come_as_csv_and_latex(made):
    tables = made[0].tables
    for name in (
        "table1", "results", "comparisons", "heterogeneity", "operating_points", "calibration",
        "subgroups", "gaps", "tripod_ai", "ranking",
    ):  # fmt: skip
        assert tables[f"{name}.csv"].count("\n") > 1
        assert r"\toprule" in tables[f"{name}.tex"]
    assert tables["tripod_ai.csv"].count("\n") == len(ITEMS) + 1
    assert {"decision_curves.csv", "reliability.csv"} <= set(tables)


def test_the_checklist_names_sections_that_are_there(made):
    table = pd.read_csv(StringIO(made[0].tables["tripod_ai.csv"]))
    titles = set(re.findall(r"<h2>\d+\. (.*)</h2>", made[0].html))
    assert set(table["where"].dropna()) <= titles
    status = table.set_index("item")["status"]
    assert status["17"] == "left to the author"
    assert "left to the author" not in set(status[["12f", "22", "24"]])
    # Of its two external institutions one has no AUROC, so there is nothing to pool.
    assert set(status[["12d", "23b"]]) == {"left to the author"}


def test_the_checklist_claims_pooling_where_there_is_some():
    cohort, predictions = cohort_and_predictions(("home", "north", "south", "west"))
    tables = built(predictions, cohort=cohort).tables
    table = pd.read_csv(StringIO(tables["tripod_ai.csv"])).set_index("item")
    assert set(table.loc[["12d", "23b"], "status"]) == {"in this report"}
    # A prediction interval takes three institutions; one of the three has no AUROC.
    assert not table.loc["23b"].astype(str).str.contains("prediction interval").any()


def test_a_strangers_predictions_with_hostile_names():
    _, predictions = cohort_and_predictions((f"home{EVIL}", "b & <b>", "south"))
    predictions["model"] = predictions["model"].replace({"cnn": f"<img src=x onerror={EVIL}>"})
    evidence = built(predictions, Study(f"compare {EVIL}", f"target {EVIL}"))
    page = Page(evidence.html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(a["src"].startswith("data:") for tag, a in page.tags if tag == "img")
    assert EVIL in page.text
    assert "SIMULATED" not in page.text
    assert "This report has no section on cohort or subgroups" in page.text
    assert "the predictions were handed in" in page.text
    assert "subgroups" not in evidence.figures
    assert "\\item" not in evidence.tables["results.tex"]


def test_without_validation_exams_nothing_is_fitted():
    cohort, predictions = cohort_and_predictions()
    evidence = built(predictions[predictions["split"] == "external"], cohort=cohort)
    page = Page(evidence.html)
    assert "No operating thresholds" in page.text
    assert "operating_points.csv" not in evidence.tables
    calibration = pd.read_csv(StringIO(evidence.tables["calibration.csv"]))
    assert calibration.loc[calibration["recalibration"] != "none", "brier"].isna().all()
    status = pd.read_csv(StringIO(evidence.tables["tripod_ai.csv"])).set_index("item")["status"]
    assert set(status[["12f", "24"]]) == {"left to the author"}


def test_an_internal_test_alone():
    cohort, predictions = cohort_and_predictions(("home",))
    page = Page(built(predictions, cohort=cohort).html)
    assert "of the internal test of home" in page.text
    assert "No external institution was tested" in page.text
    table = pd.read_csv(StringIO(built(predictions, cohort=cohort).tables["tripod_ai.csv"]))
    assert set(table.set_index("item").loc[["12d", "23b"], "status"]) == {"left to the author"}


def test_leave_site_out_takes_thresholds_from_its_folds():
    folds = [
        cohort_and_predictions(("home", "north"))[1],
        cohort_and_predictions(("north", "home"), seed=1)[1],
    ]
    together = pd.concat(folds)
    external = together[together["split"] == "external"]
    order = external["model"].map({"mae": 0, "cnn": 1})
    external = external.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)
    study = replace(STUDY, protocol="leave_site_out")
    evidence = built(external, study, folds=folds)
    page = Page(evidence.html)
    assert "each of north, home is external once" in page.text
    assert "scored by another model in each fold" in page.text
    points = pd.read_csv(StringIO(evidence.tables["operating_points.csv"]))
    by_role = points.groupby("role")["threshold"]
    assert by_role.count().to_dict() == {"external": 8, "pooled": 0}
    assert points["sensitivity"].notna().all()


def test_a_fusion_shows_its_subsets_and_each_model_on_its_own_exams():
    cohort, predictions = cohort_and_predictions()
    subsets = summarise(
        predictions.assign(model=predictions["model"].map({"mae": "ecg + bnp", "cnn": "ecg"})),
        **SETTINGS.bootstrap,
    )
    evidence = built(
        predictions,
        replace(STUDY, main="cnn", fusion="cross-fitted in 3 folds of patients"),
        common=True,
        cohort=cohort,
        subsets=Subsets(subsets, {"ecg + bnp": ("ecg", "bnp"), "ecg": ("ecg",)}),
    )
    page = Page(evidence.html)
    assert "Subsets of the inputs" in page.text
    assert "cross-fitted in 3 folds of patients" in page.text
    assert "cnn detected LVSD" in page.text
    assert {"subsets.csv", "results_own_exams.csv"} <= set(evidence.tables)
    assert "subsets" in evidence.figures


def test_what_pretraining_learned_and_what_readers_did():
    _, predictions = cohort_and_predictions()
    rows = {
        "held out": ["north", "south"],
        "exams": [1234, 987],
        "explained_variance": [0.812, 0.471],
        "least_squares": [0.74, 0.741],
    }
    words = {"explained_variance": "explained by the autoencoder", "least_squares": "by leads"}
    table, picture = pd.DataFrame(rows), new_figure(80, 40)
    evidence = built(
        predictions,
        pretraining=Pretraining(table, words, "What was learned.", picture, "An exam."),
        readers=[Paragraph("Ten readers.")],
    )
    page = Page(evidence.html)
    assert "Pretraining" in page.text
    assert "What was learned." in page.text
    assert "north 1,234 0.812 0.740" in page.text
    assert {"pretraining.csv", "pretraining.tex"} <= set(evidence.tables)
    assert "pretraining" in evidence.figures
    assert "Reader study Ten readers." in re.sub(r"\d+\. ", "", page.text)
    alone = Pretraining(table.iloc[1:].assign(**{"held out": ""}), words, "", None, "")
    evidence = built(predictions, pretraining=alone)
    assert "held out" not in Page(evidence.html).text
    assert "pretraining" not in evidence.figures


def test_the_mean_of_two_institutions_does_not_lead():
    _, predictions = cohort_and_predictions(("home", "north", "west", "south"))
    assert "The mean over" not in Page(built(predictions).html).text
    _, predictions = cohort_and_predictions(("home", "north", "west", "east", "south"))
    assert "The mean over 3 institutions, by random effects" in Page(built(predictions).html).text


def test_one_model_of_which_nothing_is_estimable():
    cohort, predictions = cohort_and_predictions()
    one = predictions[predictions["model"] == "mae"].assign(target=0)
    evidence = built(one, cohort=cohort)
    page = Page(evidence.html)
    assert "The AUROC of mae for LVSD is not estimable in 228 exams (0 positive)" in page.text
    assert "comparisons.csv" not in evidence.tables


def test_a_crowded_figure_becomes_a_small_png():
    figure = new_figure(400, 900)
    figure.add_axes((0, 0, 1, 1)).scatter(*np.random.default_rng(0).random((2, 20_000)), s=2)
    html = render(Report("t", "s", {}, [Section("k", "K", [Picture("p", "c", figure)])]))
    kind, data = re.search(r'src="data:image/([a-z+]+);base64,([^"]*)"', html).groups()
    assert kind == "png"
    assert len(data) < 2_000_000
    with Image.open(BytesIO(base64.b64decode(data))) as image:
        assert 3.9e6 < image.width * image.height <= 4.1e6
