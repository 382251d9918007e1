"""What the laws are drawn over: exact numbers, trees, series, methods, fields."""

import hypothesis.strategies as st
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.testing import methods, tableaux, trees

ORDER = 4
X = sp.symbols("u v")


def all_trees(order, colours=1):
    """All trees with at most `order` vertices."""
    return [tree for size in range(1, order + 1) for tree in mq.trees(size, colours)]


def fractions(low, high, denominator=6):
    return st.fractions(low, high, max_denominator=denominator).map(Q)


numbers = fractions(-2, 2, 3)
nonzero = numbers.filter(bool)
momenta = fractions(0, Q(19, 20), 20)
plain_trees = trees(8)
coloured_trees = st.one_of(plain_trees, trees(6, colours=3))  # those without colours have twins more often


def matrices(rows, columns, entries=numbers):
    row = st.lists(entries, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(
        lambda table: sp.Matrix(rows, columns, [entry for line in table for entry in line])
    )


def series(order=ORDER, single=None, colours=1):
    """Series with small rational coefficients; `single` fixes the one of the single vertex."""
    known = all_trees(order, colours)
    return st.lists(numbers, min_size=len(known), max_size=len(known)).map(
        lambda values: dict(zip(known, [values[0] if single is None else single, *values[1:]], strict=True))
    )


# Methods


def tableaus(explicit=None):
    """A, b of a random Runge–Kutta method with one to three stages and Σ b = 1."""
    return tableaux(explicit=explicit).map(lambda method: (sp.Matrix(method.D), list(method.B)))


@st.composite
def symplectic_tableaus(draw):
    """A, b with b_i a_ij + b_j a_ji = b_i b_j."""
    entries, b = draw(matrices(3, 3)), draw(st.lists(nonzero, min_size=1, max_size=3).filter(sum))

    def entry(i, j):
        return entries[i, j] if i < j else b[j] / 2 if i == j else b[j] - b[j] * entries[j, i] / b[i]

    return sp.Matrix(len(b), len(b), entry), b


def runge_kutta():
    return tableaux(explicit=None)


def optimizers():
    """Every momentum method of the library, with random hyper-parameters."""
    families = ["gradient_descent", "heavy_ball", "nesterov", "classical_nesterov"]
    return methods([*families, "quasi_hyperbolic", "triple_momentum", "optimistic_gradient"], max_momentum=Q(19, 20))


inside = fractions(Q(-3, 4), Q(3, 4), 4)


def root_lists(least, most):
    """Parasitic eigenvalues."""
    return st.lists(inside, min_size=least, max_size=most)


@st.composite
def multisteps(draw):
    """ρ = (z − 1) Π (z − p_i) with |p_i| < 1, and any σ with σ(1) ≠ 0, explicit or implicit."""
    z = sp.Symbol("z")
    rho = sp.Poly((z - 1) * sp.prod([z - root for root in draw(root_lists(0, 2))]), z).all_coeffs()[::-1]
    degree = draw(st.integers(len(rho) - 2, len(rho) - 1))
    sigma = draw(st.lists(numbers, min_size=degree + 1, max_size=degree + 1).filter(sum))
    return rho, sigma


@st.composite
def general_linear_methods(draw, colours=1, queries=None, at_theta=False, roots=None):
    """A = [[1, a], [0, N]] with N triangular and its eigenvalues inside the unit circle, in changed coordinates.

    So u = e₁ and w = (1, a(I − N)⁻¹): strictly zero-stable and preconsistent by construction, and consistent
    for each colour since the first row of B is chosen last. Queries see each other when they are implicit.
    """
    size = draw(st.integers(1, 3))
    count = draw(st.integers(colours, colours + 1)) if queries is None else queries
    parasites = draw(root_lists(size - 1, size - 1) if roots is None else st.tuples(*[roots] * (size - 1)))
    N = draw(matrices(size - 1, size - 1))
    N = sp.Matrix(size - 1, size - 1, lambda i, j: parasites[i] if i == j else N[i, j] if j > i else 0)
    a = draw(matrices(1, size - 1))
    A = sp.Matrix(sp.BlockMatrix([[sp.ones(1, 1), a], [sp.zeros(size - 1, 1), N]])) if size > 1 else sp.ones(1, 1)
    sees = (*range(colours), *draw(st.lists(st.integers(0, colours - 1), min_size=count, max_size=count)))[:count]
    lower = draw(matrices(size - 1, count))
    drift = a * (sp.eye(size - 1) - N).inv() * lower if size > 1 else sp.zeros(1, count)
    # w·B of each query; the first query of a colour makes up for the others so that the drift is not zero.
    wanted = draw(st.lists(nonzero.map(abs), min_size=count, max_size=count))
    B = sp.Matrix.vstack(sp.Matrix([wanted]) - drift, lower)
    readout = sp.Matrix.hstack(sp.ones(1, 1), draw(matrices(1, size - 1)))
    if at_theta:
        C, D = sp.Matrix.vstack(*[readout] * count), sp.zeros(count, count)
    else:
        C, D = sp.Matrix.hstack(sp.ones(count, 1), draw(matrices(count, size - 1))), draw(matrices(count, count))
    start = sp.Matrix.vstack(sp.zeros(1, colours), draw(matrices(size - 1, colours)))
    return in_coordinates(
        mq.GeneralLinearMethod(A=A, B=B, C=C, D=D, readout=readout, start=start, colours=sees),
        draw(changes_of_coordinates(size)),
    )


@st.composite
def changes_of_coordinates(draw, size):
    """Integer matrices of determinant 1: a unit lower times a unit upper triangular one."""
    entries = draw(matrices(size, size, st.integers(-1, 1)))
    unit = sp.eye(size)
    lower = sp.Matrix(size, size, lambda i, j: entries[i, j] if j < i else unit[i, j])
    upper = sp.Matrix(size, size, lambda i, j: entries[i, j] if j > i else unit[i, j])
    return lower * upper


def in_coordinates(method, T):
    """The same method with the state TX."""
    back = T.inv()
    return mq.GeneralLinearMethod(
        A=T * method.A * back,
        B=T * method.B,
        C=method.C * back,
        D=method.D,
        readout=method.readout * back,
        start=T * method.start,
        colours=method.colours,
    )


def with_queries(method, B=None, C=None, D=None, colours=None):
    """The method with other queries, and as many columns of the start as it then has colours."""
    sees = method.colours if colours is None else colours
    return mq.GeneralLinearMethod(
        A=method.A,
        B=method.B if B is None else B,
        C=method.C if C is None else C,
        D=method.D if D is None else D,
        readout=method.readout,
        start=method.start if max(sees) + 1 == method.colour_count else None,
        colours=sees,
    )


def one_colour_methods():
    return st.one_of(optimizers(), runge_kutta(), general_linear_methods())


# Problems


@st.composite
def polynomials(draw, variables=X, degree=3, terms=4):
    powers = st.lists(st.integers(0, degree), min_size=len(variables), max_size=len(variables))
    chosen = draw(st.lists(powers.filter(lambda p: 1 <= sum(p) <= degree), min_size=2, max_size=terms))
    return sp.Add(*(draw(nonzero) * sp.prod([x**k for x, k in zip(variables, p, strict=True)]) for p in chosen))


fields = st.lists(polynomials(degree=2), min_size=2, max_size=2)


def field_of(method, order, field, h=1, variables=X):
    """The components of the truncated modified equation on a field or loss."""
    return mq.modified_equation(method, order).on(field, variables, h=h).components


def zero(expression):
    return sp.expand(expression) == 0


def is_gradient(field, variables=X):
    """Whether the Jacobian is symmetric."""
    jacobian = sp.Matrix(field).jacobian(variables)
    return all(zero(entry) for entry in jacobian - jacobian.T)


def weights(built):
    return dict(built.coefficients)


def modified(method, order=ORDER):
    return weights(mq.modified_equation(method, order))


def step_of(method, order=ORDER):
    return weights(mq.memoryless_map(method, order))


def bare(tree):
    """The tree without its colours."""
    return mq.Tree([bare(child) for child in tree.children])


def chain(length, colours=None):
    """The tree without branches; `colours` from the leaf to the root."""
    tree = None
    for colour in colours or [0] * length:
        tree = mq.Tree(colour, [] if tree is None else [tree])
    return tree


def bush(leaves):
    return mq.Tree([[]] * leaves)
