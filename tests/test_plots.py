"""Figures: what is on them, and that they leave matplotlib's state alone."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from modeq import plots


@pytest.fixture
def ax():
    return Figure().subplots()


def test_errors_stand_at_their_steps_and_zero_is_a_gap(ax):
    (line,) = plots.plot_errors({"flow": [0.0, 1e-3, 1e-2]}, ax=ax, steps=[0, 10, 25])
    assert line.get_xdata().tolist() == [0, 10, 25]
    assert np.isnan(line.get_ydata()[0])
    assert ax.get_yscale() == "log"


def test_a_flow_that_stopped_early_has_fewer_steps(ax):
    long, short = plots.plot_errors({"a": [1, 2, 3], "b": [1, 2]}, ax=ax, steps=[0, 5, 10])
    assert len(long.get_xdata()) == 3
    assert short.get_xdata().tolist() == [0, 5]


def test_losses_are_lines_and_dots(ax):
    flow, dots = plots.plot_losses({"flow": [1.0, 0.5]}, points={"optimizer": [1.0, 0.4], "none": None}, ax=ax)
    assert (flow.get_linestyle(), dots.get_linestyle(), dots.get_marker()) == ("-", "None", "o")
    assert ax.get_yscale() == "linear"


@pytest.mark.parametrize(
    "losses, scale", [([10.0, 0.5], "log"), ([10.0, -0.5], "linear"), ([np.nan, np.inf], "linear")]
)
def test_the_axis_of_the_losses_is_logarithmic_where_it_helps(ax, losses, scale):
    plots.plot_losses({"flow": losses}, ax=ax)
    assert ax.get_yscale() == scale


def test_limits_are_horizontal_lines_and_what_is_no_number_is_left_out(ax):
    limits = {"series limit": 1.0, "stability limit": 2.0, "none": float("nan")}
    curve, series, stability = plots.plot_curvature({"gd": ([0, 9], [0.4, 1.2])}, limits, ax=ax)
    assert curve.get_ydata().tolist() == [0.4, 1.2]
    assert [set(line.get_ydata()) for line in (series, stability)] == [{1.0}, {2.0}]
    assert series.get_label() == "series limit 1"
    assert series.get_linestyle() != stability.get_linestyle()


def test_an_order_plot_shows_slopes_where_there_are_any(ax):
    h, errors = [0.4, 0.2, 0.1], [1.6e-3, 4e-4, 1e-4]
    measured, line, text = plots.plot_order(h, errors, [2.0, np.nan], expected=2, ax=ax)
    assert measured.get_ydata() == pytest.approx(errors)
    assert line.get_ydata() == pytest.approx(errors)  # the slope is exactly 2
    assert text.get_text() == "2.00"
    assert len(plots.plot_order(h, [0.0, 0.0, 0.0], [np.nan, np.nan], expected=2, ax=ax)) == 1


def test_a_plane_has_contours_below_lines_below_dots(ax):
    X, Y = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20))
    Z = X**2 + Y**2
    Z[0, 0] = np.inf
    contours, flow, dots = plots.plot_plane(
        {"flow": [[1, 0], [0, 0]]}, points=[[1, 0], [0.5, 0]], surface=(X, Y, Z), labels=("a", "b"), ax=ax
    )
    assert contours.get_zorder() < flow.get_zorder() < dots.get_zorder()
    assert np.all(np.diff(contours.levels) > 0)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")
    assert ax.get_xlim() == (-1, 1)


def test_a_flat_loss_has_levels_too(ax):
    levels = plots._levels(np.ones((2, 2)))
    assert np.all(np.diff(levels) > 0)


def test_without_axes_new_ones_are_made():
    before = plt.get_fignums()
    plots.plot_losses({"flow": [1.0, 2.0]})
    assert len(plt.get_fignums()) == len(before) + 1
    plt.close("all")
