"""One measurement of pybs, https://github.com/henriksu/pybs: Python 2.7, from its repository."""

from measure import main, missing

try:
    from pybs.rungekutta.methods import RK4, RKeuler, RKmidpoint
    from pybs.series import modified_equation
    from pybs.unordered_tree import tree_generator
except (ImportError, SyntaxError) as error:
    missing(error)


def coefficients(method, order):
    """Iterate over all trees and their exact coefficients."""
    weights = modified_equation(method.phi())
    for tree in tree_generator():
        if tree.order() > order:
            return
        value = weights(tree)
        yield tree.order() * (1 + tree.number_of_children()), value.numerator, value.denominator


if __name__ == "__main__":
    main(
        "repository",
        {
            "explicit Euler": lambda order: coefficients(RKeuler, order),
            "explicit midpoint": lambda order: coefficients(RKmidpoint, order),
            "RK4": lambda order: coefficients(RK4, order),
        },
    )
