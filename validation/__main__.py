"""Check the claims of Kunin et al. 2021 (arXiv 2012.04728), and modeq's own, script by script.

Each writes its figures, its numbers and its verdicts; verdicts.md has all in a table. What is there already is not
computed again, so that an interrupted run goes on. It takes under 40 minutes
on two cores, with --quick under 3.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from validation.claims import Setting
from validation.pages import summary
from validation.running import Store, run

SCRIPTS = (
    "figure1",
    "figure2",
    "figure3",
    "figure4",
    "figure5",
    "momentum",
    "noise",
    "any_point_any_data",
    "implicit_regularization",
    "orders",
    "equilibrium",
    "real_training",
    "scale_against_rescale",
)
# Long ones, run only when they are named.
LONG = ("full_width",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scripts; 0 if all ran, whatever their verdicts, 1 if a part failed, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m validation", description=__doc__)
    parser.add_argument("--only", metavar="NAME", choices=SCRIPTS + LONG, help=", ".join(SCRIPTS + LONG))
    parser.add_argument("--quick", action="store_true", help="narrow networks, few steps: under three minutes")
    parser.add_argument("--device", default="cpu", help="where networks are trained, cpu by default")
    parser.add_argument("--data", type=Path, metavar="PATH", help="the folder of Tiny ImageNet; else photographs")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("validation-results"), help="for all results")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many processes, 2 by default")
    options = parser.parse_args(arguments)
    setting = Setting(options.quick, options.device, options.data, options.seed, options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    stores = [Store(name, options.out, setting) for name in ([options.only] if options.only else SCRIPTS)]
    try:
        failed = run(stores, options.jobs)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {options.out} keeps what was finished, and the same command goes on", file=sys.stderr)
        return 130
    complete = {store.name: store.finish() for store in stores if not store.missing()}
    text = summary(complete)
    (options.out / "verdicts.md").write_text(text, encoding="utf-8")
    print(text)
    for part, message in failed.items():
        print(f"failed: {part}: {message}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
