"""Rows of the shape that the hub's cards show of each benchmark, with sums of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icpo_core.evaluation.registry import ENTRIES, GROUPS

NEW = GROUPS["contests"] + GROUPS["olympiad"] + GROUPS["perturbed"]


def row(name: str, at: int) -> dict[str, Any]:
    """Row `at` of a benchmark: what is at + 7?"""
    problem, gold = f"{at}+7", str(at + 7)
    if name == "gsm-symbolic":  # 50 instances of a problem have one id
        return {
            "id": at // 50, "instance": at % 50, "question": problem,
            "answer": f"Add.\n{at} + 7 = <<{at}+7={gold}>>{gold}\n#### {gold}",
            "original_id": at // 50, "original_question": "1+7", "original_answer": "#### 8",
            "canary": "a canary",
        }  # fmt: skip
    if name == "gsm-plus":
        return {
            "question": problem, "solution": f"It is {gold}.", "answer": gold,
            "perturbation_type": "numerical substitution" if at % 2 else "critical thinking",
            "seed_question": f"{at // 8}+7?", "seed_solution": "#### 8", "seed_answer": "8",
        }  # fmt: skip
    if name.startswith("math-perturb"):
        mixed = at + 7 if at % 2 else gold  # the column holds numbers and texts
        return {
            "problem_id": at, "problem": problem, "answer": mixed, "level": "Level 5",
            "type": "Algebra", "original_split": "test",
        }  # fmt: skip
    if name == "amo-bench":
        return {
            "question_id": at, "prompt": problem, "solution": "Add.",
            "answer": f"\\boxed{{{gold}}}",
            "answer_type": "number" if at % 5 else "description",
        }  # fmt: skip
    if name.startswith("olymmath"):
        language = f"OlymMATH-{name.rpartition('-')[2].upper()}-{at}-EN"
        return {"unique_id": language, "problem": problem, "answer": gold, "subject": "Algebra"}
    if name == "beyondaime":
        return {"problem": problem, "answer": at + 7}
    assert ENTRIES[name].hub.startswith("MathArena/"), name
    made = {"problem_idx": at + 1, "problem": problem, "answer": gold}
    if name == "aime2026":
        return {**made, "answer": at + 7}
    if name == "apex-2025":
        return {**made, "source": "smt"}
    return {**made, "problem_type": ["Algebra", "Number Theory"] if at % 2 else ["Algebra"]}


def write(name: str, folder: Path) -> Path:
    """A file of as many rows as the benchmark has."""
    path = folder / f"{name}.jsonl"
    rows = (json.dumps(row(name, at)) + "\n" for at in range(ENTRIES[name].sizes[0]))
    path.write_text("".join(rows), "utf-8")
    return path
