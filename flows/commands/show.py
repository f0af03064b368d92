"""`icpo show`: what each prompt of an iteration got, said, and was worth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from icpo_core.common.console import Console, Table
from icpo_core.common.text import line

if TYPE_CHECKING:
    from icpo_core.run.run import Run
    from icpo_core.views.rollouts import Group as Prompt
    from icpo_core.views.rollouts import Spoken

LONG = 600
"""Characters of a response that are shown without --full."""
STYLES = {"correct": "green", "wrong": "red", "timeout": "yellow", "error": "yellow"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "show",
        help="what a prompt got, what each rollout said, why it was rejected, its advantage",
        description="The prompts of an iteration with what became of them. With --prompt, one of "
        "them with all its rollouts: response, verdict, advantage, or why it takes no part.",
    )
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    parser.add_argument("--iteration", type=int, help="default: the newest that has rollouts")
    parser.add_argument(
        "--prompt", metavar="N|ID", help="number in the batch, or beginning of a prompt's id"
    )
    parser.add_argument(
        "--cost",
        action="store_true",
        help="what the run cost by stage, and what resuming and branching saved",
    )
    parser.add_argument("--full", action="store_true", help="responses and prompts in full length")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.run.run import Run
    from icpo_core.views import rollouts

    run = Run.read(arguments.run)
    if arguments.cost:
        return _cost(run, arguments)
    number = rollouts.newest(run) if arguments.iteration is None else arguments.iteration
    there = run.paths.iterations()
    if number not in there:
        has = f"it has {there[0]} to {there[-1]}" if there else "it has none yet"
        raise ValueError(f"--iteration {number}: no such iteration in {arguments.run}; {has}")
    one = arguments.prompt
    groups = rollouts.read(run, number, one, texts=arguments.json or one is not None)
    if arguments.json:
        rows = [group.as_json() for group in groups]
        print(
            json.dumps({"run": str(arguments.run), "iteration": number, "prompts": rows}, indent=2)
        )
        return 0
    console = Console()
    if one is not None:
        _one(console, groups[0], arguments.full)
        return 0
    console.print(_overview(arguments.run, number, groups))
    first = groups[0].number if groups else 1
    console.print(
        f"One prompt with all it got: icpo show {arguments.run} --iteration {number} "
        f"--prompt {first}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _cost(run: Run, arguments: argparse.Namespace) -> int:
    """What a run cost, as JSON or a table."""
    from icpo_core.views import cost

    if arguments.prompt is not None or arguments.iteration is not None:
        raise ValueError("--cost is of the whole run: leave out --iteration and --prompt")
    rows = cost.of_run(run)
    if arguments.json:
        print(json.dumps([row.as_json() for row in rows], indent=2))
        return 0
    if not rows[-1].times and not rows[-1].inherited_seconds:
        raise ValueError(f"{arguments.run}: no stage is finished yet")
    heads = ["stage", "times", "seconds", "device-seconds", "tokens", "kept by resuming"]
    branched = rows[-1].inherited_seconds > 0
    table = Table(title=f"{arguments.run}: cost", title_justify="left")
    for head in [*heads, *(["from before the branch"] if branched else [])]:
        table.add_column(head, justify="left" if head == "stage" else "right")
    for row in rows:
        if row.stage == "all":
            table.add_section()
        cells = [row.seconds, row.device_seconds, row.tokens, row.resumed_seconds]
        cells += [row.inherited_seconds] if branched else []
        table.add_row(row.stage, str(row.times), *(f"{cell:,.0f}" for cell in cells))
    Console().print(table)
    return 0


def _overview(root: Path, number: int, groups: list[Prompt]) -> Table:
    origins = list(dict.fromkeys(one.origin for group in groups for one in group.rollouts))
    table = Table(title=f"{root}, iteration {number}", title_justify="left")
    table.add_column("", justify="right")
    table.add_column("problem")
    table.add_column("answer")
    for origin in origins:
        table.add_column(f"{origin.replace('_', '-')} right", justify="right")
    table.add_column("advantages")
    table.add_column("no part")
    for group in groups:
        cells = []
        for origin in origins:
            right, all_ = group.right(origin)
            colour = "dim" if not all_ else "green" if right == all_ else "red" if not right else ""
            cells.append(Text(f"{right}/{all_}", colour))
        worth = sorted({one.advantage for one in group.rollouts if one.advantage is not None})
        reasons = [one.reason for one in group.rollouts if one.reason]
        table.add_row(
            str(group.number),
            _short(group.problem, 56),
            _short(group.answer, 16),
            *cells,
            " ".join(f"{value:+.2f}" for value in worth[:4]) + (" …" if len(worth) > 4 else ""),
            ", ".join(f"{reasons.count(one)} {one}" for one in dict.fromkeys(reasons)),
        )
    return table


def _one(console: Console, group: Prompt, full: bool) -> None:
    facts = Text.assemble(
        (group.problem, "bold"),
        f"\nanswer {group.answer}   source {group.source}   id {group.prompt_id}",
        f"\ndemonstrations {', '.join(group.demo_ids) or 'none'}",
        *(
            f"\n  of try {number}: {', '.join(one['demo_ids'])}"
            for number, one in enumerate(group.tries, 2)
        ),
    )
    console.print(Panel(facts, title=f"prompt {group.number}", title_align="left"))
    if full:
        console.print(Panel(Text(group.policy_prompt), title="bare prompt", title_align="left"))
        if group.expert_prompt is not None:
            title = "expert prompt (the loss never sees it)"
            console.print(Panel(Text(group.expert_prompt), title=title, title_align="left"))
        for number, again in enumerate(group.tries, 2):
            title = f"expert prompt of try {number}"
            console.print(Panel(Text(again["expert_prompt"]), title=title, title_align="left"))
    for one in group.rollouts:
        console.print(_rollout(one, full))


def _rollout(one: Spoken, full: bool) -> Panel:
    response = one.spoken
    if not full and len(response) > LONG:
        left = len(response) - LONG
        response = (
            f"{response[: LONG // 2]}\n… {left} characters, --full shows them …\n"
            + (response[-LONG // 2 :])
        )
    style = STYLES.get(one.status or "", "dim")
    verdict = Text.assemble((one.status or "not judged yet", style))
    if one.extracted is not None:
        verdict.append(f"  answer read: {one.extracted}")
    if one.detail:
        verdict.append(f"  ({one.detail})", "dim")
    if one.rewards:
        said = (f"{n} {'abstains' if v is None else f'{v:g}'}" for n, v in one.rewards.items())
        verdict.append(f"\n{'  '.join(said)}")
    if one.reason is not None:
        worth = Text(f"no part of the batch: {one.reason}", "yellow")
    elif one.advantage is None:
        worth = Text("not selected yet", "dim")
    else:
        bonus = f" + bonus {one.bonus:.3f}" if one.bonus else ""
        worth = Text(f"reward {one.reward:g}{bonus}  advantage {one.advantage:+.3f}")
    title = f"{one.sample_index}  {one.origin.replace('_', '-')}  {one.tokens} tokens"
    title += "" if one.round is None else f"  round {one.round}"
    title += "" if one.finish_reason == "stop" else f"  {one.finish_reason}"
    return Panel(
        Group(Text(response), Text(), verdict, worth),
        title=Text(line(title)),
        title_align="left",
        border_style=style,
    )


def _short(text: str, length: int) -> str:
    words = line(text)
    return words if len(words) <= length else words[: length - 1] + "…"
