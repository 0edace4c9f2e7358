"""Colours that change with the page, and matplotlib figures that wear them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

# Name -> light and dark. s0 to s7 are told apart by all eyes on either ground (after Okabe and
# Ito, darkened or lightened for contrast); more series share them, with other markers and dashes.
PALETTE = {
    "ground": ("#fdfcfa", "#15171a"),
    "raised": ("#ffffff", "#1d2024"),
    "ink": ("#1b1d21", "#eceae6"),
    "muted": ("#5d626b", "#a3a8b0"),
    "line": ("#dcdad5", "#363a41"),
    "accent": ("#0b5fa5", "#7ab8f0"),
    "warn": ("#9a4b00", "#f0b35c"),
    "wash": ("#fdf1e0", "#33281a"),
    "control": ("#6d7178", "#9a9fa7"),
    "s0": ("#0b6bb0", "#5fb0f0"),
    "s1": ("#c34a00", "#ff8a4c"),
    "s2": ("#007a5a", "#35c79c"),
    "s3": ("#a23b78", "#ec8fc3"),
    "s4": ("#946a00", "#e8b730"),
    "s5": ("#5a4bb5", "#a99bff"),
    "s6": ("#7b2d26", "#e58a80"),
    "s7": ("#2b8a9e", "#7fdcec"),
}
COLOURS = 8
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)

# matplotlib knows no CSS variables: it draws in colours that nobody would choose, which are
# then replaced by variables.
_STANDINS = {name: f"#0f0f{number:02x}" for number, name in enumerate(PALETTE)}
_NAMES = {standin: name for name, standin in _STANDINS.items()}


def colour(name: str) -> str:
    """Return what to draw with in matplotlib for a colour of the palette."""
    return _STANDINS[name]


def palette_css() -> str:
    """Define the palette for a page that follows the system unless it is told a theme."""
    light, dark = (_block(dark) for dark in (False, True))
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
        f"@media print{{:root:root:root{{color-scheme:light;{light}}}}}"
    )


def _block(dark: bool) -> str:
    return "".join(f"--{name}:{pair[dark]};" for name, pair in PALETTE.items())


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in here, for bytes that do not depend on when or where."""
    import matplotlib

    look = {
        "svg.hashsalt": "prunekit",
        "svg.fonttype": "none",  # the page's own font, its own colour, and text one can search
        "text.parse_math": False,  # a name may have a dollar sign
        "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same everywhere
        "font.size": 9.0,
        "text.color": colour("ink"),
        "xtick.labelcolor": colour("muted"),
        "ytick.labelcolor": colour("muted"),
        "axes.edgecolor": colour("line"),
        "axes.unicode_minus": False,
    }
    with matplotlib.rc_context(look), warnings.catch_warnings():
        # A name may be in any script: only the width of a label is guessed without its glyphs.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        yield


def inline(figure: Any, title: str, prefix: str) -> str:
    """Return a figure as an element of an HTML page.

    Args:
        figure: Of matplotlib, drawn in colours from `colour`.
        title: What it shows, for those who do not see it.
        prefix: Sets its identifiers apart from those of the page's other figures.
    """
    root = _tree(figure, title, prefix)
    return ElementTree.tostring(root, encoding="unicode")


def standalone(figure: Any, title: str) -> str:
    """Return a figure as a file of its own, which follows the theme of whoever shows it."""
    root = _tree(figure, title, "f")
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    root.attrib |= {"xmlns": SVG, "width": width, "height": height}
    light, dark = (_block(dark) for dark in (False, True))
    style = ElementTree.Element("style")
    style.text = (
        f"svg{{{light}background:var(--ground);font-family:system-ui,sans-serif}}"
        f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"
        "*{stroke-linejoin:round}"
    )
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _tree(figure: Any, title: str, prefix: str) -> ElementTree.Element:
    """Return a figure as a tree in which colours are variables and fonts the page's."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    _drop(root, {f"{{{SVG}}}metadata", f"{{{SVG}}}style"})
    _drop_rdf(root)
    aims = {value for node in root.iter() for value in _aims(node)}
    for node in root.iter():
        node.tag = node.tag.removeprefix(f"{{{SVG}}}")
        node.tail = None
        if node.tag != "text":
            node.text = None
        node.attrib = dict(_attributes(node, aims, prefix))
    root.attrib = {"viewBox": root.get("viewBox", ""), "class": "plot", "role": "img"}
    root.set("aria-labelledby", f"{prefix}-title")
    name = ElementTree.Element("title", {"id": f"{prefix}-title"})
    name.text = title
    root.insert(0, name)
    return root


def _drop(root: ElementTree.Element, tags: set[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)


def _drop_rdf(root: ElementTree.Element) -> None:
    """Drop what is neither drawn nor understood by HTML."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not child.tag.startswith(f"{{{SVG}}}"):
                parent.remove(child)


def _aims(node: ElementTree.Element) -> Iterator[str]:
    """Name the elements that this one refers to."""
    for value in node.attrib.values():
        if value.startswith("#"):
            yield value[1:]
        yield from re.findall(r"url\(#([^)]*)\)", value)


def _attributes(
    node: ElementTree.Element, aims: set[str], prefix: str
) -> Iterator[tuple[str, str]]:
    for key, value in node.attrib.items():
        if key == f"{{{XLINK}}}href":
            yield "href", f"#{prefix}{value[1:]}"
        elif key == "id":
            if value.startswith("series-"):
                yield "data-series", value.removeprefix("series-")
            if value in aims:
                yield "id", f"{prefix}{value}"
        elif key == "style":
            yield "style", _style(value)
        elif "url(#" in value:
            yield key, value.replace("url(#", f"url(#{prefix}")
        elif not value.startswith("rotate(-0 "):
            yield key, _short(value)


def _style(style: str) -> str:
    """Replace colours by variables and the font by its size alone."""
    style = re.sub(r"#[0-9a-f]{6}", _variable, style)
    style = re.sub(r"font: (?:(\d+) )?([\d.]+)px [^;]*", _font, style)
    return _short(style.replace("; ", ";").replace(": ", ":"))


def _variable(match: re.Match[str]) -> str:
    return f"var(--{_NAMES[match[0]]})"


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight:{match[1]};" if match[1] else ""
    return f"{weight}font-size:{match[2]}px"


def _short(text: str) -> str:
    """Leave out digits that nobody sees."""
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(text.split()))
