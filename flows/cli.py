"""The command line: `icpo COMMAND`. Exit status 0, 2 after a user's mistake, 1 otherwise."""

from __future__ import annotations

import argparse
import errno
import sys

from flows.commands import data, plan, plot, probe, services, stage, train
from flows.commands import eval as evaluate
from icpo_core.worker import WorkerError

_DISK = {
    errno.ENOSPC: "no space is left on the disk: free some",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the file system is read-only: make it writable, or set run.directory elsewhere",
    errno.EACCES: "permission denied: mend it, or set run.directory elsewhere",
}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="icpo",
        description="In-Context Steered Policy Optimization as staged, resumable batch jobs.",
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (train, services, plan, stage, evaluate, probe, plot, data):
        command.add_parser(subparsers)
    return top


def main(argv: list[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    try:
        status = arguments.call(arguments)
    except ValueError as error:
        sys.exit(_fail(arguments, error, 2))
    except WorkerError as error:
        sys.exit(_fail(arguments, error, 1))
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(arguments, f"{where}{_DISK[error.errno]}; nothing finished is lost", 1))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status)


def _fail(arguments: argparse.Namespace, error: object, status: int) -> int:
    print(f"icpo {arguments.command}: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
