"""What a result passes through: told by imports, and changed by nothing but code."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from places import REPOSITORY

from datamodules import provenance
from datamodules.provenance import code_of

MODEL = '''"""A network."""

import torch
from typing import TYPE_CHECKING

from made_up.helper import double
from . import sizes

if TYPE_CHECKING:
    from made_up.types_only import Shape


def width(depth: int) -> int:
    """What it is."""
    # why
    return double(depth) + sizes.LEAST
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `made_up` on the path: model.py, which imports helper.py and sizes.py."""
    folder = tmp_path / "made_up"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "model.py").write_text(MODEL)
    (folder / "helper.py").write_text("def double(n):\n    return 2 * n\n")
    (folder / "sizes.py").write_text("LEAST = 3\n")
    (folder / "types_only.py").write_text("Shape = int\n")
    (folder / "unused.py").write_text("import made_up.model\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "made_up"]:
        sys.modules.pop(name)
    forget()


def forget() -> None:
    """As a later process, which has read no source yet."""
    for cached in (provenance._closure, provenance._source, provenance._file, provenance._places):
        cached.cache_clear()


def digest() -> str:
    forget()
    return code_of(["made_up.model"])["code"]


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # why\n", ""),
        ("    # why\n", "    # another reason\n"),
        ('"""What it is."""', '"""What it really is, at length."""'),
        ('    """What it is."""\n', '    """What\n    it is."""\n\n'),
        ('"""A network."""', '"""Another."""'),
        ("double(depth) + sizes", "(double(depth)\n        + sizes"),
        ("\n\n\ndef width", "\n\n\n\n\ndef width"),
    ],
)
def test_how_it_is_written_does_not_count(package: Path, old: str, new: str) -> None:
    before = digest()
    change(package / "model.py", old, new)
    if "(double" in new:
        change(package / "model.py", "sizes.LEAST", "sizes.LEAST)")
    assert digest() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("model.py", "double(depth) +", "double(depth) -"),
        ("model.py", "def width", "def wide"),
        ("helper.py", "2 * n", "3 * n"),
        ("sizes.py", "3", "4"),
        ("__init__.py", "", "DEFAULT = 1\n"),
    ],
)
def test_what_it_does_counts(package: Path, file: str, old: str, new: str) -> None:
    before = digest()
    change(package / file, old, new)
    assert digest() != before


@pytest.mark.parametrize(
    ("file", "old", "new"), [("types_only.py", "int", "str"), ("unused.py", "model", "sizes")]
)
def test_what_it_does_not_import_does_not_count(
    package: Path, file: str, old: str, new: str
) -> None:
    before = digest()
    change(package / file, old, new)
    assert digest() == before


def test_the_order_and_repeats_of_names_do_not_count(package: Path) -> None:
    forget()
    one = code_of(["made_up.model", "made_up.unused"])
    assert code_of(["made_up.unused", "made_up.model", "made_up.unused"]) == one
    assert one["code"] != digest()


def test_nothing_is_run(package: Path) -> None:
    change(package / "helper.py", "def double", "raise SystemExit\n\n\ndef double")
    digest()
    assert not {"made_up.model", "made_up.helper"} & set(sys.modules)


def test_no_library_is_loaded_to_be_told() -> None:
    script = (
        "import sys; from datamodules.provenance import code_of;"
        "code_of(['lightning_modules.classifier', 'datamodules.inputs.cxr']);"
        "print(sorted({'torch', 'scipy', 'lightning', 'pandas', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_package_is_followed_upwards(package: Path) -> None:
    (package / "deep").mkdir()
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "net.py").write_text("from ..helper import double\n")
    forget()
    before = code_of(["made_up.deep.net"])
    change(package / "helper.py", "2 * n", "3 * n")
    forget()
    assert code_of(["made_up.deep.net"]) != before


def test_a_module_without_a_package_is_followed_beside_it(package: Path) -> None:
    (package.parent / "made_up_net.py").write_text(
        "import __main__, made_up.model, no_such_module\nimport torch.nn\n"
    )
    forget()
    before = code_of(["made_up_net"])
    assert before["torch"] == version("torch")
    change(package / "helper.py", "2 * n", "3 * n")
    forget()
    assert code_of(["made_up_net"]) != before


def test_modules_in_a_folder_without_init_are_followed(package: Path) -> None:
    (package / "__init__.py").unlink()
    change(package / "model.py", "from made_up.helper import double", "from made_up import helper")
    before = digest()
    change(package / "helper.py", "2 * n", "3 * n")
    assert digest() != before


def test_libraries_are_told_with_their_versions(package: Path) -> None:
    forget()
    of_model = code_of(["made_up.model"])
    assert of_model == {"code": of_model["code"], "torch": version("torch")}


def test_a_module_that_is_not_there(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="made_up.nothing"):
        code_of(["made_up.nothing"])


def test_what_an_ecg_passes_through() -> None:
    names = provenance._closure(("datamodules.inputs.ecg",))
    assert {
        "datamodules.inputs.ecg",
        "datamodules.inputs.input",
        "datamodules.recordings",
        "datamodules.recordings.wfdb",
        "datamodules.store",
    } <= names
    assert not {name for name in names if name.startswith("datamodules.simulation")}
    assert not {"datamodules.inputs.cxr", "datamodules.inputs.blood"} & names
    assert not {name for name in names if name.split(".")[0] == "experiments"}


def test_what_a_stage_passes_through_is_neither_figures_nor_tracking() -> None:
    names = provenance._closure(("experiments.stages.train",))
    assert {"experiments.stages.train", "lightning_modules.tasks.task"} <= names
    rooms = {name for name in names if name.startswith("experiments")}
    assert not {n for n in rooms if n.startswith("experiments.figures")}
    assert not {"experiments.tracking", "experiments.run"} & rooms


def test_our_libraries() -> None:
    of_ecg = code_of(["datamodules.inputs.ecg"])
    for library in ("torch", "numpy", "pandas", "wfdb"):
        assert of_ecg[library] == version(library)
    assert not {"mlflow", "hydra-core", "matplotlib", "timm", "albumentations"} & of_ecg.keys()
    of_cxr = code_of(["datamodules.inputs.cxr"])
    assert "albumentations" in of_cxr
    of_task = code_of(["lightning_modules.tasks.binary"])
    for library in ("torch", "scipy", "torchmetrics"):
        assert of_task[library] == version(library)
    assert of_task["sklearn"] == version("scikit-learn")
