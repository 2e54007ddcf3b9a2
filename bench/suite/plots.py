"""Bars and lines as PNG, by matplotlib, which is optional: without it nothing is drawn."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plot:
    """`series`: for each name a value for each of `labels`, or None. `lines`: no bars."""

    name: str
    title: str
    unit: str
    labels: tuple[str, ...]
    series: dict[str, tuple[float | None, ...]]
    logarithmic: bool = False
    lines: bool = False


def draw(plot: Plot, directory: Path) -> Path | None:
    """The file, or None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    matplotlib = importlib.import_module("matplotlib.figure")
    figure = matplotlib.Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    count = max(1, len(plot.series))
    for at, (name, values) in enumerate(plot.series.items()):
        shown = [value if value is not None else float("nan") for value in values]
        if plot.lines:
            axes.plot(range(len(shown)), shown, marker="o", label=name)
        else:
            width = 0.8 / count
            offsets = [place - 0.4 + width * (at + 0.5) for place in range(len(shown))]
            axes.bar(offsets, shown, width, label=name)
    axes.set_xticks(range(len(plot.labels)), plot.labels)
    if plot.logarithmic:
        axes.set_yscale("log")
    axes.set_ylabel(plot.unit)
    axes.set_title(plot.title, loc="left", fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if count > 1:
        axes.legend(frameon=False, fontsize=9)
    path = directory / f"{plot.name}.png"
    figure.savefig(path, dpi=120)
    return path
