"""How cost grows is told by slopes that are right, over costs that add up."""

from collections import Counter
from importlib import import_module
from itertools import cycle

import numpy as np
import pytest

scaling = import_module("scaling")


def stack(*seconds: float):
    made = scaling.Stack(lambda: 0.0)
    made.seconds += seconds
    return made


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 2.0])
def test_a_power_law_has_its_exponent_as_slope_and_a_single_point_has_none(power):
    sizes = [1, 3, 10, 500]
    assert scaling.slope(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)
    assert np.isnan(scaling.slope([2], [3.0]))


def test_a_points_cost_adds_its_stacks_up_round_by_round():
    few, many = stack(1.0, 2.0, 9.0), stack(10.0, 30.0, 20.0)
    table = scaling.tabulated(
        [
            scaling.Point("cells", "mlp", 1, [(few, 1.0)]),
            scaling.Point("cells", "mlp", 2, [(few, 3.0), (many, 1.0)]),
        ]
    )
    assert table["seconds"].tolist() == [2.0, 36.0]
    assert table["fastest"].tolist() == [1.0, 13.0]
    assert table["slowest"].tolist() == [9.0, 47.0]
    assert table["slope"].to_numpy() == pytest.approx(np.log(18) / np.log(2))


def test_the_stacks_of_a_sweep_hold_all_of_its_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scaling, "stepper", lambda cells, _: cells)
    bench = scaling.Bench()
    parts = bench.sweep("mlp", 150)
    assert sum(len(stack.run) * count for stack, count in parts) == 150
    planned = Counter(
        len(made.cells) for made in scaling.make_plan(None, ["model=mlp", "seed=range(150)"]).stacks
    )
    assert {len(stack.run): count for stack, count in parts} == planned
    assert bench.sweep("mlp", 150)[0][0] is parts[0][0], "what stands for two points is measured once"


def test_the_figure_states_the_slope_of_every_line(tmp_path):
    table = scaling.tabulated(
        [
            scaling.Point(panel, line, size, [(stack(size**0.5, size**0.5), 1.0)])
            for panel, line in zip(cycle(scaling.PANELS), scaling.LOOKS, strict=False)
            for size in (1, 2, 8)
        ]
    )
    scaling.write(table, tmp_path)
    drawn = (tmp_path / "scaling.svg").read_text()
    for line in scaling.LOOKS:
        assert f"{line}, slope 0.50" in drawn
    assert (tmp_path / "scaling.png").is_file()
    assert (tmp_path / "scaling.csv").read_text().count("\n") == 1 + 3 * len(scaling.LOOKS)
