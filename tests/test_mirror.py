"""The mirror: a run in an object store, gone on with from there as if nothing had happened.

On plain files and in memory what is cheap; on S3 against a local server what only a store shows.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import stubs
from killing import Zygote
from test_store import flip

from flows.cli import main
from icpo_core import claim, graph, integrity, object_store, uploads
from icpo_core.claim import Claim
from icpo_core.fetch import fetch
from icpo_core.lock import RefusedError
from icpo_core.mirror import Mirror
from icpo_core.object_store import AwayError, ObjectStore
from icpo_core.paths import RunPaths
from icpo_core.run import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of a run that had no mirror and was never interrupted."""
    folder = machine(data, tmp_path_factory.mktemp("whole"))
    train(folder, "")
    return stubs.digests(folder / "runs" / "run")


def machine(data: Path, folder: Path) -> Path:
    """An empty machine: problem sets, no runs."""
    folder.mkdir(exist_ok=True)
    (folder / "data").symlink_to(data)
    return folder


def opened(folder: Path, url: str, *changes: str) -> Run:
    run = Run(stubs.configuration(folder, "run", f'run.mirror="{url}"', *changes))
    run.on_mirror = said(folder).append
    return run


def said(folder: Path, lines: dict[Path, list[str]] = {}) -> list[str]:  # noqa: B006  kept
    """What a machine's run said of its mirror."""
    return lines.setdefault(folder, [])


def train(folder: Path, url: str, *changes: str) -> list[str]:
    with stubs.stubbed(opened(folder, url, *changes), folder / "ledger") as run:
        return stubs.made(stubs.train(run))


class Requests:
    """What is asked of object stores, by kind and name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, str]] = []
        for kind in ("write", "put", "copy", "remove", "get"):
            patch.setattr(ObjectStore, kind, self._noting(kind, getattr(ObjectStore, kind)))

    def _noting(self, kind: str, do):
        def asked(store: ObjectStore, *given):
            self.seen.append((kind, given[-1] if kind == "copy" else given[0]))
            return do(store, *given)

        return asked

    def names(self, *kinds: str) -> list[str]:
        return [name for kind, name in self.seen if kind in kinds]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of a bucket on a local server."""
    server = pytest.importorskip("moto.server", reason="needs moto[server] and s3fs (dev, s3)")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    running.stop()


def test_another_machine_goes_on_from_s3_as_if_it_were_the_first(
    s3: str, data: Path, whole: dict[str, str], tmp_path: Path, requests: Requests
) -> None:
    here, there = machine(data, tmp_path / "here"), machine(data, tmp_path / "there")
    url = f"{s3}/runs"
    train(here, url, "run.iterations=2")
    assert said(here) == []
    uploaded = requests.names("put", "copy")
    stages = [name for name in uploaded if name.startswith("it-")]
    assert len(set(stages)) == len(stages), "nothing is uploaded twice"
    # A checkpoint's weights are in the store already, as those of its update.
    assert "it-0002/checkpoint/model/model.safetensors" in requests.names("copy")
    store = ObjectStore(f"{url}/run")
    assert store.read("LATEST") == b"it-0002/checkpoint\n"
    assert not [name for name in store.sizes() if name.endswith(".partial")]
    assert claim.CLAIM not in store.sizes()
    assert "logs/attempt-0001/run.json" in store.sizes()

    requests.seen.clear()
    made = train(there, url)
    assert "is brought to what s3://bucket/runs/run has" in said(there)[0]
    assert all(place.startswith("it-0003") for place in made if "checkpoint" not in place)
    assert stubs.digests(there / "runs" / "run") == whole
    assert integrity.check(RunPaths(there / "runs" / "run")) == []
    assert not [name for name in requests.names("put", "copy") if name.startswith("it-0001")]
    # Retention removed the first checkpoint on both sides, and the pruned files were not fetched.
    assert "it-0001/update/model/model.safetensors" not in store.sizes()
    assert "it-0001/update/pruned.json" in store.sizes()

    # The first machine is behind now, and comes to the same.
    assert train(here, url) == []
    assert stubs.digests(here / "runs" / "run") == whole
