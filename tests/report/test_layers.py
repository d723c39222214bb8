"""The figure of gradients by layer: what it draws is what was stored."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic
from matplotlib.container import ErrorbarContainer
from scipy.stats import gmean

from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.figures import layers
from gradbench.report.figures.panels import WIDE
from gradbench.report.figures.style import assign_looks
from gradbench.report.load import cells as tables

NORMS = {"none": 3.0, "gp": 1.0, "weight_clip": 0.1}  # factor per layer, from the last to the first


def stored(folder, strengths, depth=5, seeds=3, **arrays):
    """Write a folder whose critics have gradients of a known growth; return what a figure is drawn from."""
    cells = synthetic.write(
        folder, models=["wgan"], strengths=strengths, seeds=seeds, statuses={"*": "completed"}
    )
    kept = {}
    for _, row in cells.iterrows():
        factor = NORMS[row["regularizer"]] * (1 + 0.1 * row["seed"])
        kept[row["cell"]] = factor ** np.arange(depth - 1, -1, -1.0)
        histogram = {"weights/edges": np.linspace(-1, 1, 9), "weights/counts": np.arange(8)}
        found = {"layer_gradients": kept[row["cell"]]} | histogram | arrays
        np.savez(folder / "arrays" / f"{row['cell']}.npz", **found)
    results = tables.load_results(folder)
    found = list_comparisons(results)
    return (
        SimpleNamespace(results=results, comparisons=found, looks=assign_looks(found), layout=WIDE),
        cells,
        kept,
    )


def lines(drawing):
    """Return the drawn means, a line per setting, from the first layer on."""
    (ax,) = (ax for ax in drawing.figure.axes if ax.get_ylabel() == "gradient norm")
    return [c.lines[0].get_ydata() for c in ax.containers if isinstance(c, ErrorbarContainer)]


def test_a_line_is_the_geometric_mean_over_seeds_of_what_was_stored(tmp_path):
    context, cells, norms = stored(tmp_path, {"none": (), "gp": (10.0,)})
    (drawing,) = layers.draw(context)
    for name, line in zip(("none", "gp"), lines(drawing), strict=True):
        own = [norms[cell] for cell in cells.loc[cells["regularizer"] == name, "cell"]]
        np.testing.assert_allclose(line, gmean(own, axis=0), rtol=1e-12)
    growth = gmean([(3.0 * (1 + 0.1 * seed)) ** 4 for seed in range(3)])
    said, _ = re.findall(r"([\d.]+) times larger with (?:none|gp at λ = 10)", drawing.title)
    assert float(said) == pytest.approx(growth, rel=0.05)


def test_a_gradient_that_vanishes_to_zero_ends_its_line_and_is_no_error(tmp_path):
    context, *_ = stored(tmp_path, {"none": ()}, layer_gradients=np.array([0.0, 0.0, 1e-30, 1.0]))
    (drawing,) = layers.draw(context)
    (line,) = lines(drawing)
    assert np.isnan(line[:2]).all()
    np.testing.assert_allclose(line[2:], [1e-30, 1.0])
    assert drawing.title == "No gradient reached the critic's first layer"


@pytest.mark.parametrize("arrays", [{"layer_gradients": np.ones(1)}, {"layer_gradients": np.ones((2, 3))}])
def test_critics_of_one_layer_and_arrays_of_another_shape_have_no_figure(tmp_path, arrays):
    context, *_ = stored(tmp_path, {"none": ()}, **arrays)
    assert layers.draw(context) == []


def test_many_settings_are_thinned_to_the_weakest_the_chosen_and_the_strongest(tmp_path):
    lambdas = tuple(float(10.0**power) for power in range(-6, 6))
    context, *_ = stored(tmp_path, {"none": (), "gp": lambdas}, seeds=1)
    (comparison,) = context.comparisons
    (drawing,) = layers.draw(context)
    shown = {lambdas[0], comparison.chosen_setting("gp").strength, lambdas[-1]}
    assert len(lines(drawing)) == 1 + len(shown)
