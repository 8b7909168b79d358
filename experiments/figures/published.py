"""What others have published for the same target, beside a study's own."""

import pandas as pd

from experiments.evaluation.analysis import Aurocs
from experiments.figures.html import Block, Paragraph
from experiments.figures.study import Study
from experiments.figures.study_text import interval, reference_set, where
from experiments.figures.tables import Table

OURS = "this study"


def published(analysis: Aurocs, study: Study) -> list[Block]:
    """A table of `study.published` below the study's own models, best first; nothing without any.

    Of published results no interval is shown: theirs are of other kinds.
    """
    if study.published is None:
        return []
    columns = ["model", "auroc", "auroc_low", "auroc_high"]
    own = reference_set(analysis.summary)[columns].assign(source=OURS)
    own = own.sort_values("auroc", ascending=False, kind="stable")
    values = pd.concat([own, study.published], ignore_index=True)
    shown = pd.DataFrame(
        {
            "model": values["model"],
            "macro AUROC": [
                interval(*of) for of in values[["auroc", "auroc_low", "auroc_high"]].to_numpy(float)
            ],
            "source": values["source"],
        }
    )
    excerpt = "" if study.cohort is None else study.cohort.excerpt
    warning = [Paragraph(excerpt, strong=True)] if excerpt else []
    return [
        *warning,
        Table(
            "published",
            "Published macro AUROCs, as their authors give them, below those of this study with "
            f"their intervals ({where(analysis.summary)}). Networks, preprocessing and training "
            "differ.",
            shown,
            values,
        ),
    ]
