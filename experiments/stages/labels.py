"""Fewer labels than there are: the rest of the training exams counts as unlabelled."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from datamodules.splits import draw_labels
from experiments.stages.exams import Site, target_column
from lightning_modules.tasks.task import Task


def with_few_labels(
    development: Sequence[Site], task: Task, wanted: int | None, seed: int
) -> list[Site]:
    """The development institutions with `wanted` labelled training exams among them (None: all).

    Those that lose their targets are pretrained on as before. Raises InputError, as `draw_labels`.
    """
    if wanted is None:
        return list(development)
    columns = [target_column(label) for label in task.labels]
    numbered = [site.exams.assign(institution=site.name) for site in development]
    exams = pd.concat(numbered, keys=range(len(numbered)))
    kept = draw_labels(exams, columns, wanted, seed, classed=task.classed)
    sites = []
    for number, site in enumerate(development):
        of_site = kept.loc[number]
        targets = site.exams[columns].where(of_site.reindex(site.exams.index), axis=0)
        thinned = replace(site, exams=site.exams.assign(**targets))
        trained = thinned.labelled & thinned.exams["split"].isin(["train", "val"])
        flow = {**site.flow, "labels learned from": int(trained.sum())}
        sites.append(replace(thinned, flow=flow))
    return sites
