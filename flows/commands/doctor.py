"""`icpo doctor`: what is missing on this machine, and what would not fit. Starts nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from icpo_core.common.console import Console, Table

if TYPE_CHECKING:
    from icpo_core.capacity.doctor import Finding
    from icpo_core.capacity.forecast import Forecast
    from icpo_core.config import Config

STYLES = {"ok": "green", "note": "yellow", "fail": "red"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="what is missing on this machine, and what would not fit",
        description="Look at this machine, and with a configuration at what its run would take: "
        "memory a device in each stage, disk, seconds an iteration. Starts nothing, fetches "
        "nothing. Exit status 1 if something would stop the run.",
    )
    parser.add_argument("config", nargs="?", type=Path, help="TOML file of a run, or its folder")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change one key, as rollout.engines=4",
    )  # fmt: skip
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the file's)")
    parser.add_argument(
        "--dry-run", type=Path, metavar="MACHINE.toml",
        help="for the machine that the file describes instead of this one (docs/gpu.md)",
    )  # fmt: skip
    parser.add_argument(
        "--rates", type=Path, metavar="RUN",
        help="folder of a run of the same model whose rates are taken (default: this run's own, "
        "or the machine file's)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.capacity import doctor, forecast, machine
    from icpo_core.run.run import Run

    if (arguments.dry_run or arguments.overrides) and not arguments.config:
        raise ValueError("name a configuration, as icpo doctor configs/demo.toml")
    named = arguments.config, arguments.overrides, arguments.run
    run = Run.named(*named) if arguments.config else None
    config = run.config if run else None
    folder = Path(config.run.directory) if config else Path.cwd()
    there = machine.read(arguments.dry_run) if arguments.dry_run else machine.here(folder)
    elsewhere = bool(config and config.rollout.python and config.update.python)
    findings = []
    if not arguments.dry_run:
        findings = [*doctor.check_machine(there, elsewhere), *check_prefect()]
    found = None
    if run is not None and config is not None:
        findings += doctor.check_owner(run)
        ranks = forecast.placement_on(config, there).ranks
        rates = forecast.measured(arguments.rates or folder / config.run.name, ranks)
        if arguments.rates and rates is None:
            raise ValueError(f"--rates {arguments.rates}: no run with a whole iteration is there")
        if rates is not None and (arguments.rates or not arguments.dry_run):
            there = there.model_copy(update={"rates": rates})
        found = forecast.forecast(config, there)
        findings += [*doctor.check_run(config, there, found), *doctor.check_method(config)]
        findings += doctor.check_deterministic(config, there)
        if not arguments.dry_run:
            findings += [*doctor.check_sources(config, found.shape), *doctor.check_hosts(config)]
    failed = any(finding.level is doctor.Level.FAIL for finding in findings)
    if arguments.json:
        said = {"findings": [vars(finding) for finding in findings]}
        estimate = {"estimate": found.as_json()} if found else {}
        print(json.dumps(said | estimate, indent=2))
    else:
        show(findings, config, found, Console())
    return int(failed)


def check_prefect() -> Iterator[Finding]:
    """Whether the configured API answers, or where `icpo up` would start one."""
    import httpx

    from icpo.flows.services.services import configured_api
    from icpo_core.capacity.doctor import Finding, Level, port_in_use

    api = configured_api()
    if api is None:
        taken = port_in_use("127.0.0.1", 4200)
        note = "port 4200 is taken: icpo up --port N" if taken else "icpo up starts a server"
        yield Finding(
            Level.NOTE if taken else Level.OK,
            "Prefect",
            f"no API is configured, runs use an embedded one; {note}",
        )
        return
    try:
        answer: int | str = httpx.get(f"{api}/health", timeout=5.0).status_code
    except httpx.TransportError as error:
        answer = type(error).__name__
    if answer == 200:
        yield Finding(Level.OK, "Prefect", f"{api} answers")
    else:
        yield Finding(
            Level.FAIL,
            "Prefect",
            f"{api} does not answer ({answer}): start it with icpo up, or unset PREFECT_API_URL",
        )


def show(
    findings: list[Finding], config: Config | None, found: Forecast | None, console: Console
) -> None:
    """Print findings, and the estimate part by part."""
    from icpo_core.capacity.machine import GIB

    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        sign = Text(finding.level, STYLES[finding.level])
        table.add_row(sign, finding.what, finding.said)
    console.print(table)
    if found is None or config is None:
        return
    engines = len(found.placement.engines)
    console.print(
        f"\n{config.model.path}: {found.shape.parameters / 1e9:.3g} B parameters; {engines} "
        f"engines of {config.rollout.engine.tensor_parallel}, {found.placement.ranks} ranks, "
        f"{config.run.placement}",
        highlight=False,
        soft_wrap=True,
    )
    estimates = Table("GiB a device", "stage, part")
    for load in found.loads:
        estimates.add_row(f"{load.total / GIB:.2f}", f"{load.stage} (of {load.room / GIB:.1f})")
        for name, value in load.parts.items():
            estimates.add_row(f"{value / GIB:.2f}", f"  {name}", style="dim")
    estimates.add_row(f"{sum(found.disk.values()) / GIB:.2f}", "disk, at the fullest")
    for name, value in found.disk.items():
        estimates.add_row(f"{value / GIB:.2f}", f"  {name}", style="dim")
    console.print(estimates)
    if found.seconds is None:
        console.print(
            "Seconds an iteration: not without rates. Give a run's with --rates RUN, or state them "
            "in the machine file.",
            soft_wrap=True,
        )
        return
    total, last = sum(found.seconds.values()), config.run.iterations
    shown = ", ".join(f"{name} {value:.3g}" for name, value in found.seconds.items())
    console.print(
        f"{total:.3g} s an iteration ({shown}); {total * last / 3600:.3g} h for {last}",
        highlight=False,
        soft_wrap=True,
    )
