"""How every picture of the page looks, and how it gets into it: an SVG that is the same for the same figures."""

import base64
import io
import warnings
from collections.abc import Callable

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1b4f8a", "#e08e2b")
"""Of run A and run B. In grey, one is dark and one is light."""
MARKERS = ("o", "D", "s", "^")
LINES = ("-", "--", ":")
_STYLE = {
    "svg.hashsalt": "skipwise",  # names within the file follow from its content
    "svg.fonttype": "path",
    "text.parse_math": False,  # a label is data: a dollar sign is one
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.88",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def picture(draw: Callable[[Axes], None], width: float = 5.2, height: float = 3.4) -> str:
    """A picture of one chart as the address of an `<img>`; sizes in inches of 96 pixels."""
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        content = io.BytesIO()
        figure.savefig(content, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()
