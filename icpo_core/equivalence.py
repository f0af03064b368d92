"""Whether two answers say the same: math-verify, with what it lacks around it.

Imports sympy and math-verify, so it is imported by judge processes and never by a run's own.
"""

import logging

from math_verify import LatexExtractionConfig, parse, verify

from icpo_core.grading import Finding, GradingRules, Pair, VerdictStatus

# math-verify warns once that its own (SIGALRM) limit is off: the limit here is a process's life.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def compare(pair: Pair, rules: GradingRules) -> Finding:
    """Compare, without any limit on time or memory."""
    gold = parse(f"${pair.gold}$", [LatexExtractionConfig()], parsing_timeout=None)
    for answer in pair.answers:
        candidate = parse(f"${answer}$", [LatexExtractionConfig()], parsing_timeout=None)
        if verify(gold, candidate, timeout_seconds=None):
            return Finding(VerdictStatus.correct, "math-verify")
    return Finding(VerdictStatus.wrong, "math-verify")


def warm_up() -> None:
    """Build what the first comparison builds (grammar tables, caches), to be shared by forks."""
    compare(Pair(r"\frac{1}{2}", (r"x + \sqrt{3}",)), GradingRules())
