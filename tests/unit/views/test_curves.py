"""The picture of runs: whole however many values there are, and who is told apart by what."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from icpo_core.views import curves

LINE = "{http://www.w3.org/2000/svg}polyline"


def test_the_plot_is_small_and_whole_however_long_the_run() -> None:
    draw = np.random.default_rng(0)
    for length in (0, 1, 7, 400, 5000):
        rows = [
            {
                "iteration": float(number), "reward/on_policy": draw.random(),
                "reward/expert": draw.random(), "errs/acceptance": draw.random(),
                "entropy": 3 * draw.random(), "accuracy/a<b": draw.random(),
                "accuracy/other": float("nan"),
            }
            for number in range(1, length + 1)
        ]  # fmt: skip
        text = curves.of_runs({"run <one>": rows})
        assert len(text) < 20_000
        drawing = ElementTree.fromstring(text)
        lines = drawing.findall(LINE)
        assert len(lines) == (5 if length else 0)
        for line in lines:
            for corner in line.attrib["points"].split():
                x, y = map(float, corner.split(","))
                assert 0 <= x <= float(drawing.attrib["width"])
                assert 0 <= y <= float(drawing.attrib["height"])


def test_runs_are_told_apart_by_colour_and_their_figures_by_dash() -> None:
    mine = {"reward/on_policy": 0.5, "reward/expert": 1.0, "flips": 0.0}
    runs = {
        "icpo": [{"iteration": 1.0, **mine}],
        "a<b": [{"iteration": 2.0, "reward/on_policy": 0}],
    }
    drawing = ElementTree.fromstring(curves.of_runs(runs))
    lines = [(one.attrib["stroke"], one.attrib["stroke-dasharray"]) for one in drawing.iter(LINE)]
    first, second = curves.COLOURS[:2]
    # Figures stand in the order of the alphabet within a panel's patterns; on-policy is first.
    assert lines == [(first, ""), (second, ""), (first, curves.DASHES[1][0]), (first, "")]
    said = "".join(drawing.itertext())
    assert all(name in said for name in ("icpo", "a<b", "- - expert", "— flips"))


def test_a_picture_is_an_svg(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.svg"):
        curves.write([tmp_path], tmp_path / "out.png")
