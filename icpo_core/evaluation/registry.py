"""The benchmarks that are known: where each is had, what its columns hold, since when it is public.

Ids, configurations, splits, columns and sizes are those of the Hugging Face hub's data set cards;
what of an entry could not be seen there is said in `unverified`. A problem may be in a model's
training data from the day on which it could first be read, so `released` is the earliest day that
is known, of the contest where there was one, and `dated` says who says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["math", "choice"]
Answers = Literal["integer", "number", "expression", "letter"]

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True)
class Entry:
    """What is known of a benchmark. Of several columns the first that a row has counts; a dot
    leads into a nested value."""

    name: str
    about: str
    licence: str
    hub: str | None = None
    """Id on the hub; None: `home` has the file."""
    config: str | None = None
    split: str = "test"
    home: str = ""
    """Address of the file of a benchmark that is not on the hub."""
    sizes: tuple[int, ...] = ()
    """Numbers of problems that the published versions have; empty: any."""
    samples: int = 1
    """Samples a problem in the paper's protocol (avg@k); 1: pass@1. Newer sets of a contest's size
    take as many as the paper's."""
    kind: Kind = "math"
    answers: Answers = "expression"
    """The widest kind of gold answer."""
    released: str = ""
    """Day (YYYY-MM-DD) or month from which its problems could be read; empty: not known."""
    dated: str = ""
    """Who says so."""
    bound: bool = False
    """`released` is only known to be no later than the true day."""
    unverified: str = ""
    """What could not be looked up."""
    private: bool = False
    """Its authors ask that its text is not published: it stays out of logs and reports."""
    id: tuple[str, ...] = ("id",)
    instance: str | None = None
    """Column that tells rows of one id apart."""
    family: str | None = None
    """Column that is the same in all versions of one problem: intervals draw families."""
    problem: tuple[str, ...] = ("problem", "question")
    answer: tuple[str, ...] = ("answer", "answerKey")
    solution: tuple[str, ...] = ("solution",)
    subject: tuple[str, ...] = ("subject", "meta.subject")
    level: tuple[str, ...] = ("level", "meta.level")
    options: tuple[str, ...] = ("options", "choices.text", "choices")
    """Columns with the list of a multiple choice's options."""
    labels: tuple[str, ...] = ("choices.label",)
    """Columns with the options' own names, where the answer is one of these."""
    wrong: tuple[str, ...] = ()
    """Columns with one wrong option each, where `answer` has the text of the right one."""

    @property
    def card(self) -> str:
        """The page where id, columns, split, size and licence are read, but for what is
        `unverified`."""
        return f"huggingface.co/datasets/{self.hub}" if self.hub else self.home

    def newer(self, cutoff: str) -> bool | None:
        """Whether it came out after the month `cutoff` (YYYY-MM); None where nobody knows."""
        if self.released[:7] > cutoff:
            return True
        return None if self.bound or not self.released else False

    @property
    def day(self) -> str:
        """`released`, for people."""
        return f"{self.released} or later" if self.bound else self.released


_MAA = "problems are the MAA's"


def _arena(
    name: str,
    about: str,
    problems: int,
    released: str,
    dated: str,
    answers: Answers = "expression",
    unverified: str = "",
    hub: str = "",
    bound: bool = False,
) -> Entry:
    """A contest as MathArena (Balunović et al. 2025) published it: one split `train`, columns
    problem_idx, problem, answer and mostly problem_type."""
    return Entry(
        name,
        about,
        "CC BY-NC-SA 4.0",
        hub=f"MathArena/{hub or name.replace('-', '_')}",
        split="train",
        sizes=(problems,),
        samples=32,
        answers=answers,
        released=released,
        dated=dated,
        bound=bound,
        unverified=unverified,
        id=("problem_idx", "id"),
        subject=("problem_type", "source"),
    )


_ARENA = "MathArena's configs/competitions"

ENTRIES: dict[str, Entry] = {
    one.name: one
    for one in (
        Entry(
            "aime2024",
            "AIME 2024 I and II, integer answers from 0 to 999",
            _MAA,
            hub="HuggingFaceH4/aime_2024",
            split="train",
            sizes=(30,),
            samples=32,
            answers="integer",
            released="2024-02-01",
            dated="maa.org/math-competitions: AIME I on Feb. 1, AIME II on Feb. 7",
        ),
        Entry(
            "aime2025",
            "AIME 2025 I and II, integer answers from 0 to 999",
            _MAA,
            hub="math-ai/aime25",
            sizes=(30,),
            samples=32,
            answers="integer",
            released="2025-02",
            dated=_ARENA + ", aime_2025: 2025-02-12",
        ),
        Entry(
            "amc2023",
            "AMC 12 2023 A and B, the problems with integer answers",
            _MAA,
            hub="math-ai/amc23",
            sizes=(40,),
            samples=32,
            answers="integer",
            released="2023-11-08",
            dated="mathschool.com's calendar of 2023-2024: A on Nov. 8, B on Nov. 14",
        ),
        Entry(
            "math500",
            "MATH-500, by subject and level",
            "MIT",
            hub="HuggingFaceH4/MATH-500",
            sizes=(500,),
            released="2021-03",
            dated="MATH, arXiv 2103.03874",
            id=("id", "unique_id"),
        ),
        Entry(
            "minerva",
            "Minerva Math: MIT OpenCourseWare problems with numeric and symbolic answers",
            "MIT OpenCourseWare, CC BY-NC-SA 4.0",
            hub="math-ai/minervamath",
            sizes=(272,),
            released="2022-06",
            dated="arXiv 2206.14858",
            subject=("type", "meta.type"),
        ),
        Entry(
            "olympiadbench",
            "OlympiadBench, English text-only open-ended mathematics (OE_TO_maths_en_COMP)",
            "Apache-2.0",
            hub="Hothan/OlympiadBench",
            config="OE_TO_maths_en_COMP",
            split="train",
            sizes=(674, 675),  # the hub's; the one of Qwen2.5-Math's evaluation
            released="2024-02",
            dated="arXiv 2402.14008",
            answer=("final_answer", "answer"),
            subject=("subfield", "meta.subfield"),
            level=(),
        ),
        Entry(
            "gsm8k",
            "GSM8K test, integer answers after ####",
            "MIT",
            hub="openai/gsm8k",
            config="main",
            sizes=(1319,),
            answers="integer",
            released="2021-10",
            dated="arXiv 2110.14168",
        ),
        Entry(
            "mmlu-pro",
            "MMLU-Pro, up to ten options, by category",
            "MIT",
            hub="TIGER-Lab/MMLU-Pro",
            sizes=(12032,),
            kind="choice",
            answers="letter",
            released="2024-06",
            dated="arXiv 2406.01574",
            id=("id", "question_id"),
            answer=("answer_index", "answer"),
            subject=("category",),
        ),
        Entry(
            "gpqa-diamond",
            "GPQA-Diamond, four options; gated on the hub",
            "CC BY 4.0; its authors ask not to reveal examples in plain text or images online",
            hub="Idavidrein/gpqa",
            config="gpqa_diamond",
            split="train",
            sizes=(198,),
            kind="choice",
            answers="letter",
            released="2023-11",
            dated="arXiv 2311.12022",
            private=True,
            id=("Record ID", "id"),
            problem=("Question", "question"),
            answer=("Correct Answer",),
            wrong=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
            subject=("High-level domain",),
            level=("Subdomain",),
        ),
        Entry(
            "arc-c",
            "ARC-Challenge test, mostly four options",
            "CC BY-SA 4.0",
            hub="allenai/ai2_arc",
            config="ARC-Challenge",
            sizes=(1172,),
            kind="choice",
            answers="letter",
            released="2018-03",
            dated="arXiv 1803.05457",
        ),
        _arena(
            "aime2026",
            "AIME 2026 I and II, integer answers from 0 to 999",
            30,
            "2026-02",
            _ARENA + ", aime_2026: 2026-02-06",
            "integer",
            hub="aime_2026",
        ),
        _arena(
            "hmmt-feb-2026",
            "Harvard-MIT Mathematics Tournament, February 2026",
            33,
            "2026-02-14",
            _ARENA + ", hmmt_feb_2026",
        ),
        _arena(
            "hmmt-nov-2025",
            "Harvard-MIT Mathematics Tournament, November 2025",
            30,
            "2025-11-08",
            _ARENA + ", hmmt_nov_2025",
            unverified="the card was not seen; columns and size are as others read them from the "
            "hub's server in September 2026, the licence is that of sieval's loader",
        ),
        _arena(
            "hmmt-feb-2025",
            "Harvard-MIT Mathematics Tournament, February 2025",
            30,
            "2025-02-15",
            _ARENA + ", hmmt_feb_2025",
            unverified="columns, which are as others read them from the hub's server in September "
            "2026; the hub's page has licence and size",
        ),
        _arena(
            "brumo-2025",
            "Brown University Math Olympiad 2025",
            30,
            "2025-04",
            _ARENA + ", brumo_2025: 2025-04-08",
        ),
        _arena(
            "cmimc-2025",
            "Carnegie Mellon Informatics and Mathematics Competition 2025",
            40,
            "2025-01",
            "a contest of 2025: cmimc.com has its problems as archive/cmimc2025",
            unverified="the day of the contest, which cmimc.com calls one of spring and no page "
            "that was found names; MathArena's own date is 2025-07-29",
            bound=True,
        ),
        _arena(
            "smt-2025",
            "Stanford Math Tournament 2025",
            53,
            "2025-04-13",
            "stanfordmathtournament.com: online on April 13; MathArena's own date is 2025-07-21",
            unverified="columns and size, which are those of sieval's and other loaders; the hub's "
            "page has licence and split",
        ),
        _arena(
            "apex-2025",
            "MathArena Apex: problems of 2025's contests that models fail; three are SMT's",
            12,
            "2025-04-13",
            "its oldest known contest, SMT 2025; MathArena's own date is 2025-08-18",
        ),
        Entry(
            "beyondaime",
            "BeyondAIME, integer answers, made so that none is found by guessing",
            "CC0 1.0",
            hub="ByteDance-Seed/BeyondAIME",
            sizes=(100,),
            samples=8,
            answers="integer",
            released="2025-04-10",
            dated="arXiv 2504.13914, of that day: it will be released",
            bound=True,
            unverified="the day of release, and the card; the licence is what "
            "github.com/EnvCommons/BeyondAIME says, columns and size are as others read them from "
            "the hub's server in September 2026",
        ),
        Entry(
            "olymmath-hard",
            "OlymMATH, English, hard",
            "MIT",
            hub="RUC-AIBOX/OlymMATH",
            config="en-hard",
            sizes=(100,),
            samples=8,
            released="2025-03-27",
            dated="github.com/RUCAIBox/OlymMATH, README",
            unverified="the card was not seen; columns and licence are those that others use",
            id=("unique_id", "id"),
        ),
        Entry(
            "olymmath-easy",
            "OlymMATH, English, easy",
            "MIT",
            hub="RUC-AIBOX/OlymMATH",
            config="en-easy",
            sizes=(100,),
            samples=8,
            released="2025-03-27",
            dated="github.com/RUCAIBox/OlymMATH, README",
            unverified="the card was not seen; columns and licence are those that others use",
            id=("unique_id", "id"),
        ),
        Entry(
            "amo-bench",
            "AMO-Bench, new problems of an olympiad's difficulty. Eleven answers are descriptions, "
            "which its authors have a model judge: figure `subject` parts them from the others",
            "MIT",
            hub="meituan-longcat/AMO-Bench",
            sizes=(50,),
            samples=32,
            released="2025-10-31",
            dated="github.com/meituan-longcat/AMO-Bench, README",
            id=("question_id",),
            problem=("prompt",),
            subject=("answer_type",),
        ),
        Entry(
            "math-perturb-hard",
            "MATH-P-Hard: level 5 of MATH, changed so that the old way to solve it fails",
            "Apache-2.0",
            home="github.com/Kaffaljidhmah2/MATH-Perturb, math_perturb/math_perturb_hard.jsonl",
            sizes=(279,),
            released="2025-02",
            dated="arXiv 2502.06453",
            unverified="columns and licence are those of sieval's loader",
            id=("problem_id",),
            subject=("type",),
        ),
        Entry(
            "math-perturb-simple",
            "MATH-P-Simple: level 5 of MATH with other numbers",
            "Apache-2.0",
            home="github.com/Kaffaljidhmah2/MATH-Perturb, math_perturb/math_perturb_simple.jsonl",
            sizes=(279,),
            released="2025-02",
            dated="arXiv 2502.06453",
            unverified="columns and licence are those of sieval's loader",
            id=("problem_id",),
            subject=("type",),
        ),
        Entry(
            "gsm-symbolic",
            "GSM-Symbolic, 100 problems of GSM8K with 50 sets of names and numbers each",
            "CC BY-NC-ND 4.0",
            hub="apple/GSM-Symbolic",
            config="main",
            sizes=(5000,),
            answers="integer",
            released="2024-10",
            dated="arXiv 2410.05229",
            unverified="columns and size, which are those that others use; the hub's page has "
            "licence, configurations and the file main/test.jsonl",
            instance="instance",
            family="id",
            subject=(),
        ),
        Entry(
            "gsm-plus",
            "GSM-Plus (testmini): 300 problems of GSM8K changed in eight ways, figure `subject`; "
            "an eighth has no answer (gold None)",
            "CC BY-SA 4.0",
            hub="qintongli/GSM-Plus",
            split="testmini",
            sizes=(2400,),
            answers="number",
            released="2024-02-25",
            dated="github.com/qtli/GSM-Plus, README, which has the columns, too",
            unverified="the size of testmini, which is that of sieval's loader (the README has "
            "split test, of 10,552); the card has the licence",
            id=(),
            family="seed_question",
            subject=("perturbation_type",),
        ),
    )
}

GROUPS: dict[str, tuple[str, ...]] = {
    "math": ("aime2024", "aime2025", "amc2023", "math500", "minerva", "olympiadbench"),
    "ood": ("arc-c", "gpqa-diamond", "mmlu-pro"),
    "contests": (
        "aime2026", "hmmt-feb-2026", "hmmt-nov-2025", "hmmt-feb-2025", "brumo-2025", "cmimc-2025",
        "smt-2025", "apex-2025",
    ),
    "olympiad": ("beyondaime", "olymmath-hard", "olymmath-easy", "amo-bench"),
    "perturbed": ("math-perturb-hard", "math-perturb-simple", "gsm-symbolic", "gsm-plus"),
}  # fmt: skip
GROUPS["paper"] = GROUPS["math"] + GROUPS["ood"]
"""Names that stand for several benchmarks. `paper`: the columns of its tables."""


def entry(name: str) -> Entry:
    """The registry's entry, or one for a file that it does not know: math, or multiple choice
    where the file has options."""
    return ENTRIES.get(name, Entry(name, "a local file", "yours to know"))


def month(text: str) -> str:
    """A model's cut-off, `YYYY-MM`. Raises ValueError for anything else."""
    if not _MONTH.fullmatch(text):
        raise ValueError(f"--after {text}: write the month of the model's cut-off, as 2025-06")
    return text


def newer_than(cutoff: str) -> list[str]:
    """Those on the hub that are known to have come out after the month `cutoff`, newest first.

    Raises ValueError if there are none.
    """
    found = [one for one in ENTRIES.values() if one.hub and one.newer(cutoff)]
    if not found:
        raise ValueError(f"--after {cutoff}: no benchmark is newer; name one's own with --bench")
    return [one.name for one in sorted(found, key=lambda one: one.released, reverse=True)]
