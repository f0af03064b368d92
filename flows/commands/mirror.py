"""`icpo push` and `icpo pull`: a run to an object store, and from there to a folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from icpo_core.common.console import Console

if TYPE_CHECKING:
    from icpo_core.mirror.mirror import Mirror


def add_parser(subparsers: Any) -> None:
    push = subparsers.add_parser(
        "push",
        help="a run to an object store",
        description="Upload what the store lacks of a run that is not training. A run with "
        "run.mirror does so by itself while it trains.",
    )
    push.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    push.add_argument(
        "url", nargs="?", help="where to, as s3://bucket/runs/demo (default: run.mirror/NAME)"
    )
    push.add_argument("--json", action="store_true")
    push.set_defaults(call=call_push)
    pull = subparsers.add_parser(
        "pull",
        help="a run from an object store",
        description="Download a run, or what is new of it, also while it trains elsewhere. What "
        "is in the folder already, to the digest, is kept.",
    )
    pull.add_argument("url", help="the run, as s3://bucket/runs/demo")
    pull.add_argument("folder", nargs="?", type=Path, help="where to (default: runs/NAME)")
    pull.add_argument(
        "--light",
        action="store_true",
        help="without weights and trainer states: enough to look into it",
    )
    pull.add_argument("--json", action="store_true")
    pull.set_defaults(call=call_pull)


def call_push(arguments: argparse.Namespace) -> int:
    from icpo_core.common.lock import RefusedError, RunLock
    from icpo_core.mirror.mirror import Mirror
    from icpo_core.run import trust
    from icpo_core.run.run import Run

    run = Run.read(arguments.run)
    if not arguments.url and not run.config.run.mirror:
        raise ValueError("the run has no run.mirror: name the URL, as s3://bucket/runs/demo")
    if not arguments.url:
        trust.require(run)
    mirror = Mirror(run.paths, arguments.url or run.mirror_url)
    left_out: list[str] = []
    with RunLock(run.paths.lock), _answering(mirror):
        mirror.claim.take()
        try:
            if mirror.is_ahead():
                raise RefusedError(
                    f"{mirror.store.url}: is ahead of {run.paths.root}; bring that up first: "
                    f"`icpo pull {mirror.store.url} {run.paths.root}`"
                )
            mirror.look()
            with _bar("uploading", arguments.json) as tell:
                mirror.upload(mirror.differences(), left_out.append, True, tell)
        finally:
            mirror.claim.release()
    return _report(mirror, left_out, f"{decimal(mirror.uploaded)} uploaded", arguments.json)


def call_pull(arguments: argparse.Namespace) -> int:
    from icpo_core.common.lock import RunLock
    from icpo_core.mirror.download import fetch
    from icpo_core.mirror.mirror import Mirror
    from icpo_core.store.paths import RunPaths

    folder = arguments.folder or Path("runs") / arguments.url.rstrip("/").rpartition("/")[2]
    paths = RunPaths(folder)
    mirror = Mirror(paths, arguments.url)
    with _answering(mirror):
        if mirror.store.read(paths.record.name) is None:
            raise ValueError(f"{mirror.store.url}: no run here (no {paths.record.name})")
        with RunLock(paths.lock), _bar("downloading", arguments.json) as tell:
            mirror.is_ahead()  # refuses a folder with another run
            left_out = fetch(mirror, arguments.light, tell)
    return _report(mirror, left_out, f"in {folder}", arguments.json)


def _report(mirror: Mirror, left_out: list[str], what: str, as_json: bool) -> int:
    stages = len(mirror.stages)
    if as_json:
        facts = {"url": mirror.store.url, "folder": str(mirror.paths.root), "stages": stages}
        print(json.dumps(facts | {"left_out": left_out}, indent=2))
    else:
        console = Console()
        for line in left_out:
            console.print(line, highlight=False, soft_wrap=True)
        console.print(
            f"{mirror.store.url}: {stages} stages, {what}", highlight=False, soft_wrap=True
        )
    return 1 if left_out else 0


@contextmanager
def _bar(what: str, silent: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=silent) as progress:
        task = progress.add_task(what)
        yield lambda done, all_: progress.update(task, completed=done, total=all_)


@contextmanager
def _answering(mirror: Mirror) -> Iterator[None]:
    from icpo_core.mirror.object_store import AwayError

    try:
        yield
    except AwayError as error:
        raise ValueError(
            f"{mirror.store.url}: does not answer ({error}); check the address (AWS_ENDPOINT_URL "
            "for a store that is not AWS's own) and the network"
        ) from None
