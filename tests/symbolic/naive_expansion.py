"""Modified equations by brute force: Taylor expansion of the iteration itself, with polynomials in h and θ.

The unknown field F = F₀ + hF₁ + … is inserted into the update rule, with θ(t + sh) = Σ (sh)ᵏ/k! Dᵏθ and D the
derivative along F, and solved power by power. Nothing here knows of trees, transfer functions or modeq.
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
        inverse = 1 / self.ring(slope).coeff(1)
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

    return e.solve(rule, 1 - beta)


def torch_nesterov(e, f, beta):
    beta = e.number(beta)

    def rule(later):
        # θ⁺ = θ + h f + hβ v⁺ with hβ v⁺ = β(hβ v) + hβ f and hβ v = θ − θ⁻ − h f⁻.
        velocity = combination((1, e.theta), (-1, later(e.theta, -1)), (-e.h, later(f, -1)))
        return combination((1, later(e.theta, 1)), (-1, e.theta), (-e.h * (1 + beta), f), (-beta, velocity))

    return e.solve(rule, 1 - beta)


def classical_nesterov(e, f, beta):
    beta = e.number(beta)

    def rule(later):
        y = combination((1 + beta, e.theta), (-beta, later(e.theta, -1)))
        return combination((1, later(e.theta, 1)), (-1, y), (-e.h, e.composed(f, y)))

    return e.solve(rule, 1 - beta)


def decoupled_heavy_ball(e, f, beta, lam):
    beta, lam = e.number(beta), e.number(lam)

    def rule(later):
        # h v⁺ = θ⁺ − qθ with q = 1 − hλ, and v⁺ = βv + f.
        q = 1 - e.h * lam
        return combination((1, later(e.theta, 1)), (-q - beta, e.theta), (beta * q, later(e.theta, -1)), (-e.h, f))

    return e.solve(rule, 1 - beta)


def quasi_hyperbolic(e, f, beta, nu):
    beta, nu = e.number(beta), e.number(nu)

    def rule(later):
        # hνv⁺ = θ⁺ − θ − h(1 − ν)f, and v⁺ = βv + (1 − β)f.
        buffer = combination((1, e.theta), (-1, later(e.theta, -1)), (-e.h * (1 - nu), later(f, -1)))
        moved = combination((1, later(e.theta, 1)), (-1, e.theta), (-e.h * (1 - nu), f))
        return combination((1, moved), (-beta, buffer), (-e.h * nu * (1 - beta), f))

    return e.solve(rule, 1 - beta)


def pid(e, f, beta, derivative, integral, proportional):
    beta, kd, ki, kp = (e.number(value) for value in (beta, derivative, integral, proportional))

    def rule(later):
        # m = h(k_I v + k_D d) = θ − θ⁻ − h k_P f⁻, and m⁺ = βm + h(k_I f + k_D(1 − β)(f − f⁻)).
        buffers = combination((1, e.theta), (-1, later(e.theta, -1)), (-e.h * kp, later(f, -1)))
        moved = combination((1, later(e.theta, 1)), (-1, e.theta), (-e.h * kp, f))
        change = combination((1, f), (-1, later(f, -1)))
        return combination((1, moved), (-beta, buffers), (-e.h * ki, f), (-e.h * kd * (1 - beta), change))

    return e.solve(rule, 1 - beta)


def triple_momentum(e, f, beta, gamma, delta):
    beta, gamma, delta = e.number(beta), e.number(gamma), e.number(delta)

    def rule(later):
        def change(vector):
            return combination((1, vector), (-1, later(vector, -1)))

        # θ = ξ + δ(ξ − ξ⁻), solved for ξ: each difference brings one more power of h.
        xi = term = e.theta
        for _ in range(e.order):
            term = combination((-delta, change(term)))
            xi = combination((1, xi), (1, term))
        y = combination((1, xi), (gamma, change(xi)))
        return combination((1, later(xi, 1)), (-1, xi), (-beta, change(xi)), (-e.h, e.composed(f, y)))

    return e.solve(rule, 1 - beta)


def multistep(e, f, rho, sigma):
    """Σ ρ_j θ_{n+j} = h Σ σ_j f(θ_{n+j})."""

    def rule(later):
        left = [(e.number(r), later(e.theta, j)) for j, r in enumerate(rho)]
        return combination(*left, *((-e.h * e.number(s), later(f, j)) for j, s in enumerate(sigma)))

    return e.solve(rule, e.number(sum(j * r for j, r in enumerate(rho))))


def runge_kutta(e, f, A, b):
    def rule(later):
        stages = [e.theta] * len(b)
        for _ in range(e.order):  # each sweep settles one more power of h
            slopes = [e.composed(f, y) for y in stages]
            stages = [
                combination((1, e.theta), *((e.h * e.number(a), k) for a, k in zip(row, slopes, strict=True)))
                for row in A
            ]
        moves = [(-e.h * e.number(w), e.composed(f, y)) for w, y in zip(b, stages, strict=True)]
        return combination((1, later(e.theta, 1)), (-1, e.theta), *moves)

    return e.solve(rule, e.number(sum(b)))


def extragradient(e, f):
    def rule(later):
        ahead = combination((1, e.theta), (e.h, f))
        return combination((1, later(e.theta, 1)), (-1, e.theta), (-e.h, e.composed(f, ahead)))

    return e.solve(rule, 1)


def optimistic_gradient(e, f):
    def rule(later):
        return combination((1, later(e.theta, 1)), (-1, e.theta), (-2 * e.h, f), (e.h, later(f, -1)))

    return e.solve(rule, 1)
