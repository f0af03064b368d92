"""Training problems and demonstrations that are problems of an evaluation set.

Two nets: near-duplicates (`icpo_core.method.near_duplicates`) of the problems of the sets that the
user names, and fingerprints of evaluation problems that are known to stand word for word in public
training sets, which hold without any set at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from icpo.data.cleaning import Check, Reason, Removal
from icpo.data.recipes import Row
from icpo_core.method.near_duplicates import NearDuplicates
from icpo_core.method.problems import normal_text

# Found in DAPO-Math-17k, MATH train and DeepScaleR. `amc-2022-2023` is the AMC validation set of
# 83 problems, of which the AMC23 benchmark is a part.
KNOWN: Mapping[str, str] = {
    fingerprint: benchmark
    for benchmark, fingerprints in {
        "amc-2022-2023": "4b9e792f98b51ae9 3c86aa74c0f64287 fcff3b5230b7c6c4 ddfc733edb51b9d0 "
        "3584a5f3eb07d5e9 a129f0bdddc1ebed 1e6b0631848c0e98 e30faa3e52ebaa10 5e3075b3a5a80f3a "
        "a13caf8702f83870 72df77547f43fa7d c1196832fc52ca5b 101987bbea4e2421 6779283c68a7aeb0",
        "math-500": "85377d2f74cce84d ce4789d6c51df0a1 338dfa70548ed01c 93915f4fdfc60708 "
        "957f536c0b9e0f28 c3ccb2119224663b cfe5564afa65f7b4 5da7ef1a80f38285",
        "olympiadbench": "eaa823a8878abb4d 3ff6c7734776d26f 669fbdf308e0e54e 35adef8234693389 "
        "c9e712e64a8e75b8 3bb7dd61476809f9 57306d899236c844 88533eaefdd684b7 9a98720d44435435 "
        "1e1881256cce81e1 1d611ef45ab8b942 1e2700193a5bf85f fc6097c913580829",
    }.items()
    for fingerprint in fingerprints.split()
}


def fingerprint(problem: str) -> str:
    """First 16 hex digits of the SHA-256 of the problem's letters and digits, case dropped."""
    plain = "".join(letter for letter in problem.casefold() if letter.isalnum())
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def contaminated(evaluations: Mapping[str, pa.Table]) -> Check:
    """Problems that are, or nearly are, one of an evaluation set (name: table "problems")."""
    names: list[str] = []
    texts: list[str] = []
    for table in evaluations.values():
        names += table.column("id").to_pylist()
        texts += table.column("problem").to_pylist()
    index = NearDuplicates(texts)
    normal = [normal_text(text) for text in texts]

    def check(rows: Sequence[Row]) -> dict[int, Removal]:
        problems = [row.problem or "" for row in rows]
        found = {}
        for place, (problem, near) in enumerate(zip(problems, index.find(problems), strict=True)):
            known = KNOWN.get(fingerprint(problem))
            if near:
                # The detail names what is most alike first: a person will look there.
                same = normal_text(problem)
                near.sort(key=lambda other: normal[other] != same)
                kind = "is" if normal[near[0]] == same else "nearly is"
                found[place] = Removal(Reason.CONTAMINATION, f"{kind} {names[near[0]]}")
            elif known:
                found[place] = Removal(Reason.CONTAMINATION, f"is a problem of {known}")
        return found

    return check
