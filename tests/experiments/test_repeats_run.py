"""Studies over seeds and numbers of labels by the real command."""

import pandas as pd
import pytest
from command import TINY_COHORT, Launch, launch

from experiments.arguments import Arguments, read_arguments
from experiments.config import compose_jobs, with_sweep

TINY = (
    *TINY_COHORT,
    "method=mae",
    "network.settings={width: 16, depth: 1, heads: 2}",
    "pretrain.decoder={width: 16, depth: 1, heads: 2}",
    "pretrain.max_steps=4",
    "pretrain.validate_every_steps=2",
    "finetune.max_steps=4",
    "finetune.validate_every_steps=2",
    "finetune.from_pretrained.max_steps=4",
    "~models.cnn",
    "statistics={resamples: 50, report_resamples: 20}",
)


def swept(*overrides: str) -> Arguments:
    return with_sweep(read_arguments(["-m", *overrides]))


def test_a_study_says_what_it_is_repeated_over() -> None:
    study = ("experiment=real_transfer", "cohort.root=x")
    assert swept(*study).overrides == (*study, "labels=20,50,200", "seed=1,2,3,4,5")
    of_a_person = (*study, "seed=7", "labels=null,30")
    assert swept(*of_a_person).overrides == of_a_person
    found = [config for _, config in compose_jobs(swept(*of_a_person))]
    assert [config.labels for config in found] == [None, 30]
    assert {config.seed for config in found} == {7}
    assert swept("seed=1,2").overrides == ("seed=1,2",)


def test_pretraining_methods_are_compared_at_equal_compute() -> None:
    found = compose_jobs(swept("experiment=pretraining_methods", "seed=1"))
    seen = {config.pretrain.max_steps * config.pretrain.batch_size for _, config in found}
    assert seen == {32_000}
    kinds = [config.pretrain.target.rpartition(".")[2] for _, config in found]
    assert len(found) == 11
    assert len(set(kinds)) == 4


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    folder = tmp_path_factory.mktemp("repeated")
    sweep = "sweep={labels: [12, 30], seed: [1, 2]}"
    done = launch(folder, "-m", *TINY, sweep)
    assert done.status == 0, done.output + done.errors
    return done


@pytest.mark.slow
def test_one_command_one_report(repeated: Launch) -> None:
    aurocs = pd.read_csv(repeated.artifact("aurocs.csv"))
    cells = aurocs[["labels", "seed"]].drop_duplicates()
    assert len(cells) == 4
    assert {"pretrained", "scratch"} == set(aurocs["model"])
    assert set(aurocs["measure"]) == {"pooled AUROC", "random-effects AUROC"}
    table = pd.read_csv(repeated.artifact("tables/over_seeds.csv"))
    one = (
        (table["labels"] == 12)
        & (table["model"] == "scratch")
        & (table["measure"] == "pooled AUROC")
    )
    of = aurocs.loc[
        (aurocs["labels"] == 12)
        & (aurocs["model"] == "scratch")
        & (aurocs["measure"] == "pooled AUROC"),
        "auroc",
    ]
    assert table.loc[one, "mean"].item() == pytest.approx(of.mean(), abs=1e-6)
    assert table.loc[one, "sd"].item() == pytest.approx(of.std(), abs=1e-6)
    assert "AUROC over 2 seeds" in repeated.output
    html = repeated.artifact("report.html").read_text()
    assert "Simulated data" in html
    assert repeated.artifact("figures/aurocs.png").stat().st_size > 5000


@pytest.mark.slow
def test_numbers_of_labels_share_a_seeds_pretraining(repeated: Launch) -> None:
    costs = pd.read_csv(repeated.artifact("tables/costs.csv"))
    assert costs.groupby("seed")["run"].nunique().tolist() == [1, 1]
    assert costs["run"].nunique() == 2
    assert (costs["exams_seen"] == 4 * 16).all()


@pytest.mark.slow
def test_as_many_labels_are_learned_from_as_were_asked_for(repeated: Launch) -> None:
    assert len(repeated.children) == 4
    for child in repeated.children:
        wanted = int(child.data.params["labels"])
        of_child = repeated.client.download_artifacts(child.info.run_id, "cohort/flow.csv")
        flow = pd.read_csv(of_child).set_index("institution")
        # and of validation exams the same share
        assert wanted < flow.loc["quillhaven", "labels learned from"] < 2 * wanted
        assert flow.loc["quillhaven", "with target"] > 50
        assert flow.drop("quillhaven")["labels learned from"].isna().all()
