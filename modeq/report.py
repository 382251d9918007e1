"""The words of a study: its report in Markdown and its summary for the terminal, from plain results."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]

_FAMILY_TEXT = {
    "Translation": "sums of weights that a softmax or a mean does not see",
    "Scale": "squared norms of weights before a normalisation",
    "Rescale": "differences of squared norms around a homogeneous activation",
    "GeneralLinear": "differences of Gram matrices around linear operations, each entry on or above the diagonal "
    "with the equation of a rescale",
}


def markdown(results: Results) -> str:
    """Return the report of a study in Markdown."""
    parts = ["# What this optimizer follows\n"]
    if "failure" in results:
        parts.append(f"**This study did not finish.** {results['failure']}. What was found until then follows.\n")
    parts.append(_settings(results))
    for key, section in (
        ("derivation", _derivation),
        ("quadratic", _quadratic),
        ("network", _network),
        ("training", _training),
    ):
        if key in results:
            parts.append(section(results))
    return "\n".join(parts)


def _settings(results: Results) -> str:
    s = results["settings"]
    return (
        f"`torch.optim.SGD(lr={s['lr']:g}, momentum={s['momentum']:g}, dampening={s['dampening']:g}, "
        f"nesterov={s['nesterov']}, weight_decay={s['weight_decay']:g})`, network `{s['network']}`, batches of "
        f"{s['batch_size']}, {s['steps']} steps, seed {s['seed']}. Time is h·n throughout, g and H are the gradient "
        "and the Hessian of the mean loss.\n"
    )


def _derivation(results: Results) -> str:
    d = results["derivation"]
    return f"""## The equation of `{d["method"]}`

**A. Vector field** (order 3), a flow on the parameters alone, which means something only inside the series limit:

$${d["field"]}$$

It starts at

$${d["initial_layer"]}$$

and is a gradient flow through order {d["gradient_order"]}, of the modified loss

$${d["modified_loss"]}$$

**B. Time derivatives** (order 2):

$${d["time"]}$$

**C. Phase space** (order 3), which keeps the poles of the method:

$${d["phase"]}$$

## Where each form means anything

The vector field's series converges for h·λ below the *series limit* **{d["series_limit"]:.4g}**; the optimizer is
stable on a quadratic for h·λ up to the *stability limit* **{d["stability_limit"]:.4g}**.

(λ_max is that of the Hessian plus the weight decay, which is inside the gradient.)

| problem | h·λ_max | series limit | stability limit | what means something there |
|---|---|---|---|---|
{_regimes(results)}
"""


def regime(h_curvature: float, series_limit: float, stability_limit: float) -> str:
    """Say which forms mean something at a value of h·λ_max."""
    if h_curvature >= stability_limit:
        return "none: beyond the stability limit of the quadratic model"
    if h_curvature >= series_limit:
        return "B and C; the vector field (A) only as gradient flow, to order 1"
    return "A, B and C"


def _regimes(results: Results) -> str:
    d = results["derivation"]
    measured = []
    if "quadratic" in results:
        measured.append(("quadratic of Figure 4", results["quadratic"]["h_curvature"]))
    if "network" in results:
        measured.append(("tanh network, at the start", results["network"]["h_curvature"]))
    if "training" in results:
        first, last = results["training"]["h_curvature"]
        measured += [("trained network, at the start", first), ("trained network, at the end", last)]
    rows = [
        f"| {name} | {value:.4g} | {d['series_limit']:.4g} | {d['stability_limit']:.4g} | "
        f"{regime(value, d['series_limit'], d['stability_limit'])} |"
        for name, value in measured
    ]
    return "\n".join(rows)


def _errors(record: Mapping[str, Any]) -> str:
    lines = ["| law | largest error | over the second half |", "|---|---|---|"]
    for row in record["rows"]:
        if row["error"] is None:
            lines.append(f"| {row['title']} | {row['note']} | |")
        else:
            lines.append(f"| {row['title']} | {row['error']:.3g} | {row['late_error']:.3g} |")
    return "\n".join(lines)


def _quadratic(results: Results) -> str:
    q = results["quadratic"]
    return f"""## On the quadratic of Kunin et al. 2021, Figure 4

L = ½θᵀAθ, A = [[2.5, −1.5], [−1.5, 2.5]], h = {q["h"]:g}, {q["steps"]} steps from (1, 0): the largest difference to the
optimizer in any parameter at any step. Order p of the phase-space form keeps derivatives of f through D^(p−1).

{_errors(q)}

![trajectories](trajectories.png)
"""


def _network(results: Results) -> str:
    n = results["network"]
    return f"""## On a smooth network, full batch

A tanh network with {n["parameters"]} parameters on the first {n["images"]} of scikit-learn's handwritten digits,
h = {n["h"]:g}, {n["steps"]} full-batch steps.

{_errors(n)}
"""


def _training(results: Results) -> str:
    t = results["training"]
    rows = []
    for c in t["charges"]:
        exact = f"{c['discrete_without_epsilon']:.1e}" if "discrete_without_epsilon" in c else "–"
        laws = " | ".join(
            "no law" if c[law] is None else f"{c[law]:.1e}" for law in ("discrete", "corrected", "article")
        )
        rows.append(f"| {c['name']} | {c['family']} | {c['generators']} | {laws} | {exact} |")
    families = dict.fromkeys(c["family"] for c in t["charges"])
    meaning = "; ".join(f"*{family}*: {_FAMILY_TEXT[family]}" for family in families)
    sentences = "\n".join(f"- {c['explanation']}" for c in t["charges"])
    table = "\n".join(rows)
    equations = "\n\n".join(
        f"*{family.replace('_', ' ').capitalize()}*: $${text}$$" for family, text in t["equations"].items()
    )
    first, last = t["losses"]
    return f"""## The charges through a real training

Network `{t["network"]}`, {t["parameters"]} parameters, in float64: loss {first:.3f} → {last:.3f}, accuracy on held-out
digits {t["test_accuracy"]:.1%}. {meaning}.

The modified equation, projected on the generators, is the equation of each charge:

{equations}

Residuals are open loop from step 0: the largest |law − measured| over all steps and generators, relative to Σ|θ| for a
translation and to the squared norms for the others. The last column repeats the training with ε = 1e-30 in all norms.

| charge | family | generators | exact discrete law | continuous, corrected | continuous, article | discrete, ε → 0 |
|---|---|---|---|---|---|---|
{table}

{sentences}

![charges](charges.png)
"""


def summary(results: Results) -> str:
    """Return the short table that the command line prints."""
    lines = []
    if "derivation" in results:
        d = results["derivation"]
        lines.append(d["method"])
        lines.append(f"  series limit in h·λ     {d['series_limit']:.4g}")
        lines.append(f"  stability limit in h·λ  {d['stability_limit']:.4g}")
    for key, title in (
        ("quadratic", "quadratic of Figure 4, largest error"),
        ("network", "tanh network, full batch, largest error"),
    ):
        if key in results:
            lines += ["", f"{title}  (h·λ_max = {results[key]['h_curvature']:.4g})"]
            for row in results[key]["rows"]:
                lines.append(
                    f"  {row['title']:<38} {row['note'] if row['error'] is None else format(row['error'], '.2e')}"
                )
    if "training" in results:
        t = results["training"]
        lines += [
            "",
            f"training of {t['network']}, accuracy {t['test_accuracy']:.1%}; largest relative residual of each charge",
        ]
        widths = [max(12, *(len(c[key]) for c in t["charges"])) for key in ("name", "family")]
        head = " ".join(f"{title:>10}" for title in ("exact law", "ε → 0", "corrected", "article"))
        lines.append(f"  {'charge':<{widths[0]}} {'family':<{widths[1]}} {head}")
        for c in t["charges"]:
            values = [c["discrete"], c.get("discrete_without_epsilon"), c["corrected"], c["article"]]
            cells = " ".join(f"{'–' if v is None else format(v, '.1e'):>10}" for v in values)
            lines.append(f"  {c['name']:<{widths[0]}} {c['family']:<{widths[1]}} {cells}")
    if "failure" in results:
        lines += ["", f"not finished: {results['failure']}"]
    return "\n".join(lines)
