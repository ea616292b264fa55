"""When each position is unmasked, as heat maps: canvas position by step, the share of samples.

Knows matplotlib's objects; knows nothing of how the orders were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_LATIN = 0x250  # the first code point that matplotlib's own font need not have


@dataclass(frozen=True)
class HeatmapPanel:
    """The orders of one problem.

    Args:
        title: what the panel is called.
        labels: the true token of every canvas position.
        steps: per sample, the step (from 1) at which each canvas position was unmasked.
    """

    title: str
    labels: Sequence[str]
    steps: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        assert self.steps, "at least one sample"
        assert all(len(sample) == len(self.labels) for sample in self.steps), "one step per label"

    def shares(self, budget: int) -> list[list[float]]:
        """``[T][position]``: the share of samples in which a position is unmasked at a step."""
        counts = [[0] * len(self.labels) for _ in range(budget)]
        for sample in self.steps:
            for position, step in enumerate(sample):
                counts[step - 1][position] += 1
        return [[count / len(self.steps) for count in line] for line in counts]


def heatmap_figure(panels: Sequence[HeatmapPanel], budget: int) -> Figure:
    """One panel per problem: positions along x, labelled with the true tokens, steps 1 .. ``budget`` along y.

    Raises:
        ValueError: when there is no panel.
    """
    if not panels:
        raise ValueError("there are no orders to draw: evaluate at least one problem")
    widest = max(len(panel.labels) for panel in panels)
    size = (max(5.0, 1.8 + 0.22 * widest), (1.1 + max(1.0, 0.22 * budget)) * len(panels))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(len(panels), 1, squeeze=False).flat)
    for axis, panel in zip(axes, panels, strict=True):
        image = axis.imshow(
            panel.shares(budget), cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto", origin="lower",
            extent=(-0.5, len(panel.labels) - 0.5, 0.5, budget + 0.5), interpolation="nearest",
        )  # fmt: skip
        axis.set_title(legible(panel.title), fontsize=9, loc="left")
        axis.set_xticks(range(len(panel.labels)), [legible(label) for label in panel.labels], rotation=90, fontsize=7)
        axis.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axis.set_ylabel(f"step of {budget}", fontsize=8)
    figure.colorbar(image, ax=axes, label="share of samples")
    return figure


def legible(text: str) -> str:
    """A token as a label: white space shown, no formulas, nothing that the font lacks."""
    shown = text.replace("\n", "\\n") if text.strip(" ") else text.replace(" ", "␣")
    return "".join(c if c == "␣" or (c.isprintable() and ord(c) < _LATIN) else "?" for c in shown).replace("$", r"\$")
