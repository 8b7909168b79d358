import pandas as pd
import pytest

from experiments.console import print_table


def test_names_in_a_table_stand_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["coast [2021]", "hills [/new]", "vit [red]", ":warning: [link=x]"]
    print_table("AUROC [/b]", pd.DataFrame({"cnn [/v2]": names, ":smile:": names}))
    shown = capsys.readouterr().out
    for name in names:
        assert shown.count(name) == 2
    assert "cnn [/v2]" in shown
    assert ":smile:" in shown
    assert "AUROC [/b]" in shown
