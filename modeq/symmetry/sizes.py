"""How large rational functions are: degrees and coefficients, for bounds on the probability that they vanish."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import log2


@dataclass(frozen=True)
class Size:
    """A bound of an array of rational functions N_i/Q, with integer coefficients, of all that is random.

    Attributes
    ----------
    degree, degree_below : degrees of the N_i and of their common denominator Q
    height, height_below : log₂ of the sums of the absolute values of their coefficients
    """

    degree: int
    degree_below: int = 0
    height: float = 0.0
    height_below: float = 0.0

    def plus(self, other: "Size") -> "Size":
        """Bound a sum."""
        return Size(
            max(self.degree + other.degree_below, other.degree + self.degree_below),
            self.degree_below + other.degree_below,
            max(self.height + other.height_below, other.height + self.height_below) + 1,
            self.height_below + other.height_below,
        )

    def times(self, other: "Size", terms: int = 1) -> "Size":
        """Bound a sum of so many products."""
        return Size(
            self.degree + other.degree,
            self.degree_below + other.degree_below,
            self.height + other.height + log2(terms),
            self.height_below + other.height_below,
        )

    def inverse(self, entries: int) -> "Size":
        """Bound the inverses of all entries: their common denominator is the product of the numerators."""
        return Size(
            self.degree_below + (entries - 1) * self.degree,
            entries * self.degree,
            self.height_below + (entries - 1) * self.height,
            entries * self.height,
        )


def heights(numbers: Sequence[Fraction]) -> tuple[float, float]:
    """Return log₂ of the largest numerator, plus one, and of a common denominator of fractions.

    Examples
    --------
    >>> heights([Fraction(7), Fraction(1, 2)])
    (4.0, 1.0)
    """
    below = sum(log2(d) for d in {n.denominator for n in numbers})
    return below + max((log2(abs(n) + 1) for n in numbers), default=0.0), below
