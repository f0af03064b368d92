"""A batch of prompts beside the tokenising of its texts alone.

    python -m benchmarks.prompts [--problems FILE --demonstrations FILE] [--rounds 9] [--json FILE]

16 prompts with one demonstration of the small problem set, and with files of one's own 128 with
two; demonstrations drawn at random and by similarity. The texts are tokenised in one call, which
any builder of prompts has to pay; the two take turns. The tokenizer is the small model's, a token a
character.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

from transformers import AutoTokenizer

from icpo_core.common.console import Console, Table
from icpo_core.config import PromptsSection, load
from icpo_core.method.problems import read_problems
from icpo_core.method.prompts import PromptMaker

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "data" / "small"


def measure(asked: str, shown: str, section: PromptsSection, rounds: int) -> dict[str, float]:
    """Median seconds of a batch and of tokenising its texts. asked, shown: problem sets."""
    tokenizer = AutoTokenizer.from_pretrained(SMALL / "base")
    maker = PromptMaker(read_problems(asked), read_problems(shown), [], tokenizer, section, 0)
    maker.batch(1)
    ours, limit = [], []
    for iteration in range(2, 2 + rounds):
        started = time.perf_counter()
        batch = maker.batch(iteration)
        ours.append(time.perf_counter() - started)
        texts = batch["policy_prompt"].to_pylist() + batch["expert_prompt"].drop_null().to_pylist()
        started = time.perf_counter()
        tokenizer(texts)
        limit.append(time.perf_counter() - started)
    return {"seconds": median(ours), "tokenising": median(limit)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--problems", help="a problem set as `icpo data prepare` reads it")
    parser.add_argument("--demonstrations", help="problems with solutions")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if bool(arguments.problems) != bool(arguments.demonstrations):
        parser.error("--problems and --demonstrations go together")
    demo = load(ROOT / "configs" / "demo.toml", []).prompts.model_dump()
    sets = {"small": (str(SMALL / "train.parquet"), str(SMALL / "demonstrations.parquet"), 16, 1)}
    if arguments.problems:
        sets["given"] = (arguments.problems, arguments.demonstrations, 128, 2)
    found = {}
    table = Table("", "ours, ms", "tokenising, ms", "ratio", title="a batch of prompts, medians")
    for name, (asked, shown, size, k) in sets.items():
        for selection in ("random", "similar"):
            changes = {"batch_size": size, "k": k, "selection": selection, "max_tokens": 4096}
            section = PromptsSection(**(demo | changes))
            it = measure(asked, shown, section, arguments.rounds)
            it["ratio"] = it["seconds"] / it["tokenising"]
            key = f"{size} prompts of the {name} set, {selection}"
            found[key] = it
            numbers = f"{1e3 * it['seconds']:.1f}", f"{1e3 * it['tokenising']:.1f}"
            table.add_row(key, *numbers, f"{it['ratio']:.1f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
