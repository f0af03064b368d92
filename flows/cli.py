"""The command line: `icpo COMMAND`. Exit status 0, 2 after a user's mistake, 128 + its number
after a signal, 1 otherwise."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from importlib.metadata import version

from icpo.flows import ending
from icpo.flows.commands import (
    check,
    completion,
    data,
    diff,
    doctor,
    gc,
    init,
    judge,
    lineage,
    ls,
    mirror,
    plan,
    plot,
    probe,
    push_model,
    report,
    schema,
    services,
    show,
    stage,
    sweep,
    train,
    trust,
)
from icpo.flows.commands import eval as evaluate
from icpo.flows.prefect_compat.terminal import ServerError, one_line
from icpo.flows.ui.arguments import Parser
from icpo_core.common.console import print_traceback
from icpo_core.common.files import require_place, what_the_disk_says
from icpo_core.common.limits import what_the_machine_lacks
from icpo_core.common.text import line
from icpo_core.workers.environment import past_proxies
from icpo_core.workers.errors import WorkerError
from icpo_core.workers.variables import at_an_import


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(
        prog="icpo",
        description="In-Context Steered Policy Optimization as staged, resumable batch jobs.",
    )
    top.add_argument("--version", action="version", version=f"icpo {version('icpo')}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    looking = (plan, ls, show, diff, lineage, check, gc)
    working = (init, train, sweep, services, stage, mirror, trust)
    measuring = (evaluate, judge, probe, report, plot, push_model)
    for command in (*working, *looking, *measuring, data, doctor, schema, completion):
        command.add_parser(subparsers)
    return top


def main(argv: list[str] | None = None) -> None:
    sys.excepthook = print_traceback
    threading.excepthook = lambda ended: print_traceback(
        ended.exc_type, ended.exc_value, ended.exc_traceback
    )
    top = parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        top.print_help()
        return
    if words[0] == "data":  # with options of its own, which are read later
        words = ["data", "--", *words[1:]]
    arguments = top.parse_args(words)
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit(_fail(arguments, "the current folder is gone: cd to one that is there", 2))
    # Before anybody makes a client. What is started from here, as `icpo up` does, inherits it.
    os.environ |= past_proxies(os.environ)
    # A flow's own environment has no torch, and needs none: docs/install.md, Two environments.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        if getattr(arguments, "out", None):
            require_place(arguments.out)
        with ending.heeded():
            status = arguments.call(arguments)
    except ValueError as error:
        sys.exit(_fail(arguments, at_an_import(error) or error, 2))
    except WorkerError as error:
        sys.exit(_fail(arguments, one_line(error), 1))
    except ServerError as error:
        _fail(arguments, error, 1)
        sys.stdout.flush()
        os._exit(1)  # on its way out, Prefect would try for minutes to send what is left to say
    except (NotADirectoryError, FileExistsError) as error:
        where = f"{error.filename}: is below a file, where no folder can be; name another place"
        sys.exit(_fail(arguments, where, 2))
    except IsADirectoryError as error:
        sys.exit(_fail(arguments, f"{error.filename}: is a folder; name a file", 2))
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        said = what_the_machine_lacks(error)
        if said is None and isinstance(error, OSError):
            said = what_the_disk_says(error)
        if said is None:
            raise
        if hasattr(arguments, "out"):
            said = said.replace("set run.directory elsewhere", "give another --out")
        sys.exit(_fail(arguments, said, 1))
    except ending.Signalled as signalled:
        sys.exit(_fail(arguments, signalled, ending.FIRST_STATUS + signalled.number))
    sys.exit(status)


def _fail(arguments: argparse.Namespace, error: object, status: int) -> int:
    print(f"icpo {arguments.command}: {line(error)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
