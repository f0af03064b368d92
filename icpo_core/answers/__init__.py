"""Comparing a candidate answer with the gold answer.

`exact` decides what text alone decides. The rest goes, in a judge process, through `notation` (one
spelling), `reading` (structure: `forms`, with `phrases` for what stands in words), and is compared
by `equivalence` with the help of `values`, `numerics`, `units`, `regions`, `families`, `wording`
and, on what is left, math-verify.
"""
