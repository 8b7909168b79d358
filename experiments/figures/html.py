"""A report as one HTML file that needs nothing else: no network, no script."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from experiments.figures.tables import Table

_SVG_BYTES = 200_000  # a larger one becomes a PNG
_PNG_DPI = 150
_PNG_PIXELS = 4_000_000  # a larger one gets fewer dots an inch
_PNG_COLOURS = 128
_SCALE = 1.2  # on the screen: 8 pt in a figure beside text of 15 px


@dataclass(frozen=True)
class Paragraph:
    """`strong` sets it off from the text around it."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Listing:
    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for; `code` where the latter is to be copied letter by letter."""

    facts: Mapping[str, str]
    code: bool = False


@dataclass(frozen=True)
class Picture:
    name: str
    caption: str
    figure: Figure


Block = Paragraph | Listing | Facts | Picture | Table


@dataclass(frozen=True)
class Section:
    """`key` is its anchor within the file."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """`banners`, each below a word, are shown on top and in print: what is simulated."""

    title: str
    subtitle: str
    banners: Mapping[str, str]
    sections: Sequence[Section]

    @property
    def tables(self) -> list[Table]:
        return [b for section in self.sections for b in section.blocks if isinstance(b, Table)]

    @property
    def pictures(self) -> list[Picture]:
        return [b for section in self.sections for b in section.blocks if isinstance(b, Picture)]


def render(report: Report) -> str:
    """The report's HTML; all its texts are escaped, figures and tables numbered in their order."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"image": _image, "kind": lambda block: type(block).__name__}
    numbers = {(table.name, "Table"): n for n, table in enumerate(report.tables, 1)}
    numbers |= {(picture.name, "Picture"): n for n, picture in enumerate(report.pictures, 1)}
    return environment.get_template("report.html.j2").render(report=report, numbers=numbers)


def _image(picture: Picture) -> Markup:
    """An <img> whose file is its own address: SVG, or PNG where that is smaller by far."""
    width = round(picture.figure.get_size_inches()[0] * 96 * _SCALE)
    # ids and date would differ from one rendering to the next
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "path"}):
        data, kind = _saved(picture.figure, "svg", metadata={"Date": None}), "svg+xml"
    if len(data) > _SVG_BYTES:
        data, kind = _png(picture.figure), "png"
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup('<img src="{}" alt="{}" width="{}">').format(address, picture.caption, width)


def _png(figure: Figure) -> bytes:
    """A PNG with a palette, a third of the size of one without."""
    area = figure.get_figwidth() * figure.get_figheight()
    raw = _saved(figure, "png", dpi=min(_PNG_DPI, math.sqrt(_PNG_PIXELS / area)))
    with Image.open(io.BytesIO(raw)) as image:
        buffer = io.BytesIO()
        image.convert("RGB").quantize(_PNG_COLOURS).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _saved(figure: Figure, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
