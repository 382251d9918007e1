"""What is measured: cases, orders, and what was asked of modeq."""

from dataclasses import dataclass, replace

PACKAGES = {"modeq": "modeq_worker", "kauri": "kauri_worker", "BSeries": "bseries_worker", "pybs": "pybs_worker"}


@dataclass(frozen=True)
class Case:
    """One kind of computation at several orders.

    `seconds` and `megabytes` hold the limits asked of modeq, by order. Cases of one `value` compute the
    same numbers, so that their checksums agree at each order.
    """

    name: str
    orders: tuple[int, ...]
    value: str
    seconds: dict[int, float]
    megabytes: dict[int, int]

    def quick(self) -> "Case":
        """The same case at its lowest order."""
        return replace(self, orders=self.orders[:1])


def _case(
    name: str,
    orders: tuple[int, ...],
    value: str | None = None,
    seconds: dict[int, float] | None = None,
    megabytes: dict[int, int] | None = None,
) -> Case:
    return Case(name, orders, value or name, seconds or {}, megabytes or {})


CASES = (
    _case(
        "explicit Euler",
        tuple(range(5, 17)),
        seconds={10: 0.02, 12: 0.1, 16: 3.0},
        megabytes={16: 1000},
    ),
    _case("explicit midpoint", (6, 8, 10, 12), seconds={12: 1.0}),
    _case("RK4", (6, 8, 10, 12), seconds={12: 1.0}),
    _case("heavy ball, 1/3", (6, 8, 10), "heavy ball"),
    _case("heavy ball, symbol", (6, 8, 10), "heavy ball", seconds={8: 1.0, 10: 10.0}),
    _case("two colours", (5, 6, 7), seconds={7: 2.0}),
    _case("three minibatches", (2, 3, 4), seconds={4: 1.0}),
    _case("three minibatches, heavy ball", (2, 3, 4), seconds={4: 1.0}),
    _case("expected epoch", (1, 2, 3), seconds={3: 10.0}),
    _case("expected epoch, heavy ball", (1, 2, 3), seconds={3: 10.0}),
    _case("fixed order, heavy ball", (1, 2, 3), seconds={3: 10.0}),
    _case("Lotka-Volterra", (2, 4, 6), seconds={6: 0.2}),
)
