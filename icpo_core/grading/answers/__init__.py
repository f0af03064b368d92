"""Comparing a candidate answer with the gold answer.

`exact` decides what text alone decides. The rest, in a judge process, goes three ways in turn:

- spelling: `notation` brings both to one spelling, with `braces`, `letters`, `numerals`;
- structure: `reading` takes them apart into `forms`, with `phrases`, `names` and `expansion`;
- comparison: `equivalence` sends each pair of forms to the module of its kind: `values` (with
  `expressions`, `numerics`, `units`), `lists`, `relations`, `regions` (with `pieces`), `cases`,
  `families`, `spoken` (with `wording`); `alternatives` are other readings and other letters.

Expressions are read by math-verify's parser, and its `verify` decides what is left.
"""
