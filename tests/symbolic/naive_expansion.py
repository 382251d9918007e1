"""Modified equations by brute force: Taylor expansion of the iteration itself, with polynomials in h and θ.

Nothing here knows of trees or transfer functions. The unknown field F = F₀ + hF₁ + … is inserted into the
update rule, with θ(t + sh) = Σ (sh)ᵏ/k! Dᵏθ and D the derivative along F, and solved power by power.
"""

import sympy as sp
from sympy.polys.rings import ring


class Expansion:
    """Polynomials in h and θ, truncated beyond h^order.

    Parameters
    ----------
    variables : names of the components of θ
    symbols : symbols of the coefficient field
    """

    def __init__(self, variables, order, symbols=()):
        self.field = sp.QQ.frac_field(*symbols) if symbols else sp.QQ
        self.ring, self.h, *self.theta = ring(["step", *variables], self.field)
        self.order = order

    def number(self, value):
        return self.ring(self.field.from_sympy(sp.sympify(value)))

    def truncated(self, polynomial):
        return self.ring.from_dict({m: c for m, c in polynomial.items() if m[0] <= self.order})

    def composed(self, function, points):
        """A vector of polynomials in θ, at other points."""
        pairs = list(zip(self.theta, points, strict=True))
        return [self.truncated(component.compose(pairs)) for component in function]

    def later(self, function, F, shift):
        """function(θ(t + shift·h)) along θ' = F."""
        total, term = list(function), list(function)
        for k in range(1, self.order + 1):
            term = [
                self.truncated(
                    self.h * shift * sum((f * g.diff(x) for f, x in zip(F, self.theta, strict=True)), self.ring.zero)
                ).quo_ground(self.field(k))
                for g in term
            ]
            total = [a + b for a, b in zip(total, term, strict=True)]
        return total

    def solve(self, rule, slope):
        """The F with rule(later) = 0 through h^order, where rule = h·slope·F + (terms that F enters later)."""
        F = [self.ring.zero] * len(self.theta)
        inverse = 1 / self.field.from_sympy(sp.sympify(slope))
        for _ in range(self.order):
            defect = rule(lambda function, shift, F=F: self.later(function, F, shift))
            F = [a - self.truncated(b).mul_ground(inverse).exquo(self.h) for a, b in zip(F, defect, strict=True)]
        return F


def combination(*terms):
    """Σ coefficient·vector."""
    return [sum(c * v[i] for c, v in terms) for i in range(len(terms[0][1]))]


# Each rule is the optimizer, with all its buffers eliminated, as "left minus right side".


def gradient_descent(e, f):
    return e.solve(lambda later: combination((1, later(e.theta, 1)), (-1, e.theta), (-e.h, f)), 1)


def heavy_ball(e, f, beta, alpha=0):
    beta, alpha = e.number(beta), e.number(alpha)

    def rule(later):
        return combination(
            (1, later(e.theta, 1)), (-1 - beta, e.theta), (beta, later(e.theta, -1)), (-e.h * (1 - alpha), f)
        )

    return e.solve(rule, (1 - beta).as_expr())


def torch_nesterov(e, f, beta):
    beta = e.number(beta)

    def rule(later):
        # θ⁺ = θ + h f + hβ v⁺ with hβ v⁺ = β(hβ v) + hβ f and hβ v = θ − θ⁻ − h f⁻.
        velocity = combination((1, e.theta), (-1, later(e.theta, -1)), (-e.h, later(f, -1)))
        return combination((1, later(e.theta, 1)), (-1, e.theta), (-e.h * (1 + beta), f), (-beta, velocity))

    return e.solve(rule, (1 - beta).as_expr())


def classical_nesterov(e, f, beta):
    beta = e.number(beta)

    def rule(later):
        y = combination((1 + beta, e.theta), (-beta, later(e.theta, -1)))
        return combination((1, later(e.theta, 1)), (-1, y), (-e.h, e.composed(f, y)))

    return e.solve(rule, (1 - beta).as_expr())


def decoupled_heavy_ball(e, f, beta, lam):
    beta, lam = e.number(beta), e.number(lam)

    def rule(later):
        # h v⁺ = θ⁺ − qθ with q = 1 − hλ, and v⁺ = βv + f.
        q = 1 - e.h * lam
        return combination((1, later(e.theta, 1)), (-q - beta, e.theta), (beta * q, later(e.theta, -1)), (-e.h, f))

    return e.solve(rule, (1 - beta).as_expr())


def extragradient(e, f):
    def rule(later):
        ahead = combination((1, e.theta), (e.h, f))
        return combination((1, later(e.theta, 1)), (-1, e.theta), (-e.h, e.composed(f, ahead)))

    return e.solve(rule, 1)


def optimistic_gradient(e, f):
    def rule(later):
        return combination((1, later(e.theta, 1)), (-1, e.theta), (-2 * e.h, f), (e.h, later(f, -1)))

    return e.solve(rule, 1)


def tree_field(e, children):
    """The field that isolates a tree: vertex v moves with the product of its children's components.

    At θ = 0 the elementary differential F(τ) of its own tree has the root component σ(τ) and all
    others vanish there, so that the root component of a series is its coefficient, not divided by σ.
    """
    field = []
    for below in children:
        product = e.ring.one
        for child in below:
            product *= e.theta[child]
        field.append(product)
    return field


def vertices(nested):
    """For each vertex of a tree in nested lists the numbers of its children; the root is 0."""
    children = [[]]

    def visit(tree, number):
        for child in tree:
            children.append([])
            below = len(children) - 1
            children[number].append(below)
            visit(child, below)

    visit(nested, 0)
    return children


def coefficient(nested, rule, symbols=(), **hyperparameters):
    """b(τ) of a rule above."""
    children = vertices(nested)
    e = Expansion([f"y{i}" for i in range(len(children))], len(children), symbols)
    root = rule(e, tree_field(e, children), **hyperparameters)[0]
    at_zero = root.coeff(e.h ** (len(children) - 1))
    return sp.factor(e.field.to_sympy(at_zero))
