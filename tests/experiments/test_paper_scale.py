"""The paper's own sizes, 12 x 5000 and ViT-Base, for a few steps by overrides alone."""

from pathlib import Path

import pytest
from command import TINY_COHORT, launch


@pytest.mark.slow
def test_vit_base_pretrains_and_fine_tunes_at_the_papers_scale(tmp_path: Path) -> None:
    done = launch(
        tmp_path,
        f"cohort.root={tmp_path}/cohort",
        *TINY_COHORT,
        "scale=paper",
        "network=vit_base",
        "trainer.loading_workers=1",
        "trainer.test_batch_size=4",
        "pretrain.max_steps=2",
        "pretrain.batch_size=4",
        "finetune.max_steps=2",
        "finetune.batch_size=4",
    )
    assert done.status == 0, done.errors
    (pretraining,) = [r for r in done.children if r.data.tags["stage"] == "pretrain"]
    assert pretraining.data.params["network"] == "vit_base"
    assert "val/explained_variance" in pretraining.data.metrics
    assert {row["model"] for row in done.summary} == {"pretrained", "scratch", "cnn"}
