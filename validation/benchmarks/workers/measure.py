"""What every worker does: time one case after the imports, and print a line of JSON.

Plain enough for Python 2.7 as well, which one of the packages needs.
"""

import json
import resource
import sys
import time

PRIME = 2**61 - 1

clock = getattr(time, "perf_counter", time.time)


def peak_megabytes():
    """Return the largest memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
    return peak // 1024 // (1024 if sys.platform == "darwin" else 1)


def processor_seconds():
    """Return the processor time this process has used; it shows whether others slowed it down."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def checksum(terms):
    """Return the number of terms (weight, numerator, denominator) and their sum modulo a prime."""
    total, count, inverses = 0, 0, {}
    for weight, numerator, denominator in terms:
        inverse = inverses.get(denominator)
        if inverse is None:
            inverse = inverses[denominator] = pow(int(denominator), PRIME - 2, PRIME)
        total += weight * int(numerator) * inverse
        count += 1
    return count, total % PRIME


def main(version, cases):
    """Measure the case and the order on the command line; `cases` maps names to functions of the order.

    For coefficients it returns an iterator of (weight, numerator, denominator), one per tree, which is timed
    to its end, with the weight |tree|*(1 + children of its root), so that the sum tells trees apart. For a
    vector field it returns, once the components are there, a function that gives their values at a point in
    the same form; only what comes before is timed. None if the package does not offer that order.
    """
    name, order = sys.argv[1], int(sys.argv[2])
    imported, processor = peak_megabytes(), processor_seconds()
    start = clock()
    terms = cases[name](order) if name in cases else None
    if terms is None:
        print(json.dumps({"status": "not offered", "version": version}))
        return
    timed = None if callable(terms) else checksum(terms)
    seconds, processor = clock() - start, processor_seconds() - processor
    count, total = timed or checksum(terms())
    report = {"status": "measured", "version": version, "seconds": seconds, "terms": count, "checksum": str(total)}
    report.update(processor=processor, megabytes=peak_megabytes(), megabytes_imported=imported)
    print(json.dumps(report))


def missing(error):
    """Report that the package cannot be imported, and end."""
    print(json.dumps({"status": "not installed", "reason": str(error)}))
    sys.exit(0)
