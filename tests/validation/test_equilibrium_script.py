"""The script on equilibria measures what it announces."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def numbers():
    from validation import equilibrium
    from validation.claims import Setting

    setting = Setting(quick=True)
    (name, case), *_ = equilibrium.cases(setting).items()
    return {name: equilibrium.measure(case, setting)}


@pytest.fixture(scope="module", autouse=True)
def validation():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


def test_norms_of_gradient_descent_relax_from_both_sides_as_predicted(numbers):
    from validation import equilibrium

    missed = {cell.name: cell.value for cell in equilibrium.cells(numbers) if cell.merit == "path"}
    assert len(missed) == 12
    assert max(missed.values()) < 0.03


def test_every_figure_of_merit_has_cells_and_the_figure_is_drawn(numbers):
    from validation import equilibrium
    from validation.claims import Setting, verdicts

    assert set(verdicts(equilibrium.MERITS, equilibrium.cells(numbers))) == set(equilibrium.MERITS)
    ((figure, caption),) = equilibrium.draw(numbers, Setting(quick=True)).values()
    assert len(figure.axes) == 6
    assert "batch 16" in caption


def test_a_relaxation_is_fitted():
    import numpy as np

    from validation.equilibrium import _fitted

    values = 2 - np.exp(-np.arange(100) / 30)
    assert _fitted(values, 20.0) == (pytest.approx(2, rel=0.02), pytest.approx(1.5, rel=0.02))
