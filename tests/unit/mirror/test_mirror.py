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
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import stubs
from damage import flip
from killing import Zygote

from icpo.flows.cli import main
from icpo_core.common.lock import RefusedError
from icpo_core.mirror import claim, object_store, uploader
from icpo_core.mirror.claim import Claim
from icpo_core.mirror.download import fetch
from icpo_core.mirror.mirror import Mirror
from icpo_core.mirror.object_store import AwayError, ObjectStore
from icpo_core.run import integrity, perform, plan, sources
from icpo_core.run.run import Run
from icpo_core.run.session import Observer, Session
from icpo_core.run.stages import STAGES
from icpo_core.store.paths import RunPaths


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


class Listening(Observer):
    """Takes down what the mirror has to say on a machine."""

    def __init__(self, folder: Path) -> None:
        self.said = said(folder)

    def mirror(self, line: str) -> None:
        self.said.append(line)


def run_of(folder: Path, url: str, *changes: str) -> Run:
    return Run.of(stubs.configuration(folder, "run", f'run.mirror="{url}"', *changes))


def session_of(folder: Path, url: str) -> Session:
    """Not open yet."""
    return Session(run_of(folder, url), Listening(folder))


def stubbed(
    folder: Path, url: str, *changes: str, ledger: Path | None = None
) -> AbstractContextManager[Session]:
    run = run_of(folder, url, *changes)
    return stubs.stubbed(run, ledger, observer=Listening(folder))


def said(folder: Path, lines: dict[Path, list[str]] = {}) -> list[str]:  # noqa: B006  kept
    """What a machine's run said of its mirror."""
    return lines.setdefault(folder, [])


def train(folder: Path, url: str, *changes: str) -> list[str]:
    with stubbed(folder, url, *changes, ledger=folder / "ledger") as session:
        return stubs.made(stubs.train(session))


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


def pulled(folder: Path, url: str) -> Path:
    """The run as another machine finds it in the mirror, whole as far as it goes."""
    paths = RunPaths(folder)
    assert fetch(Mirror(paths, f"{url}/run")) == []
    assert integrity.check(paths) == []
    return folder


@pytest.mark.parametrize(
    ("mark", "count"),
    [
        ("before put it-0001/rollout/part-00001-of-00002.parquet", 1),
        ("after write it-0002/update/manifest.json.partial", 1),
        ("after put it-0002/update/model/model.safetensors", 1),
        ("before write it-0002/update/manifest.json", 1),
        ("before remove it-0002/update/manifest.json.partial", 1),
        ("before write LATEST", 2),
        ("after write it-0001/update/pruned.json", 1),
        ("after remove it-0001/update/model/model.safetensors", 1),
        ("s3 after put it-0002/select/batch-00000-of-00002.parquet", 1),
    ],
)
def test_killed_while_it_uploads_it_leaves_whole_stages(
    mark: str, count: int, zygote: Zygote, s3: str, data: Path, whole: dict[str, str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: Requests,
) -> None:  # fmt: skip
    here, there = machine(data, tmp_path / "here"), machine(data, tmp_path / "there")
    url = f"{s3}/killed" if mark.startswith("s3 ") else f"file://{tmp_path}/mirror"
    changes = [f'run.mirror="{url}"']
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert zygote.run(here, changes, mark.removeprefix("s3 "), count, environment=aws).killed
    if "LATEST" not in mark:
        place = Path(mark.rpartition(" ")[2]).parts[:2]
        stages = {RunPaths(here).place(*key) for key in _looked(here, url).stages}
        is_there = "before remove" in mark or "it-0001/update" in mark
        assert ("/".join(place) in stages) is is_there
    if (tmp_path / "mirror/run/run.json").exists():
        found = pulled(tmp_path / "looked into", url)
        assert stubs.digests_of(Run.read(found)).items() <= whole.items()
    requests.seen.clear()
    if count == 1 and mark.startswith("after put"):  # the same machine goes on
        assert train(here, url)
        assert mark.rpartition(" ")[2] not in requests.names("put"), "it is there already"
        there = here
    else:  # another one does, when nobody has heard of the first for a while
        with pytest.raises(RefusedError, match=r"written by process \d+ on .*if it is dead, try"):
            session_of(there, url).open()
        monkeypatch.setattr(claim, "STALE_SECONDS", -1.0)
        train(there, url)
    assert stubs.digests(there / "runs" / "run") == whole
    assert stubs.digests(pulled(tmp_path / "at last", url)) == whole
    assert not [name for name in _looked(here, url).names if name.endswith(".partial")]


def _looked(folder: Path, url: str) -> Mirror:
    mirror = Mirror(RunPaths(folder / "runs" / "run"), f"{url}/run")
    mirror.look()
    return mirror


@pytest.fixture(scope="module")
def mirrored(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with two of three iterations, and its mirror `mirror` beside `runs`."""
    folder = machine(data, tmp_path_factory.mktemp("mirrored"))
    train(folder, f"file://{folder}/mirror", "run.iterations=2")
    return folder


@pytest.fixture
def url(mirrored: Path, tmp_path: Path) -> str:
    """A mirror of its own for a test."""
    shutil.copytree(mirrored / "mirror", tmp_path / "mirror")
    return f"file://{tmp_path}/mirror"


@pytest.mark.parametrize(
    "mark",
    [
        "before get it-0001/rollout/part-00000-of-00002.parquet",
        "after get it-0002/update/model/model.safetensors",
        "before replace it-0002/update/manifest.json",
        "before get run.json",
        "before symlink LATEST.partial",
    ],
)
def test_killed_while_it_fetches_it_fetches_the_rest(
    mark: str, url: str, zygote: Zygote, data: Path, whole: dict[str, str], tmp_path: Path,
    requests: Requests,
) -> None:  # fmt: skip
    there = machine(data, tmp_path / "there")
    assert zygote.run(there, [f'run.mirror="{url}"'], mark).killed
    assert not any(place.startswith("it-0002") for place in train(there, url) if "ch" not in place)
    assert stubs.digests(there / "runs" / "run") == whole
    if mark == "before get run.json":
        assert not [name for name in requests.names("get") if name.startswith("it-")]


def test_a_store_that_is_away_does_not_hold_the_run_up(
    data: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    requests: Requests,
) -> None:  # fmt: skip
    monkeypatch.setattr(uploader, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(uploader, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(uploader, "GIVE_UP_SECONDS", 0.3)
    url, away = f"file://{tmp_path}/mirror", threading.Event()
    ask = ObjectStore._ask

    def asked(store: ObjectStore, *given, **named):
        if away.is_set():
            raise AwayError("no route to host")
        return ask(store, *given, **named)

    monkeypatch.setattr(ObjectStore, "_ask", asked)

    def hook(mark: str) -> None:
        if mark == "after rollout 1":
            away.set()
        elif mark == "after rollout 2":
            wait_for(lambda: len(said(folder)) == 1)
            away.clear()
            wait_for(lambda: len(said(folder)) == 2)

    def wait_for(what) -> None:
        end = time.monotonic() + 10
        while not what():
            assert time.monotonic() < end
            time.sleep(0.01)

    folder = machine(data, tmp_path / "here")
    with stubbed(folder, url) as session:
        stubs.train(session, on_stage=hook)
    assert "does not answer (no route to host); the run goes on" in said(folder)[0]
    assert said(folder)[1:] == [f"{url}/run: the mirror answers again"]
    assert stubs.digests(pulled(tmp_path / "pulled", url)) == whole
    sent = [name for name in requests.names("put", "copy") if name.startswith("it-")]
    assert Counter(sent).most_common(1)[0][1] == 1

    # It stays away, from the beginning: a run that is here goes on, one that is not does not begin.
    away.set()
    said(folder).clear()
    train(folder, url, "run.iterations=4")
    assert len(said(folder)) == 2
    assert (
        f"not there yet; the same command uploads them when it goes on, or now `icpo push {folder}"
        in said(folder)[1]
    )
    with pytest.raises(ValueError, match=r"no route to host\), and may have this run"):
        session_of(machine(data, tmp_path / "there"), url).open()
    away.clear()
    requests.seen.clear()
    assert train(folder, url, "run.iterations=4") == []
    sent = [name for name in requests.names("put", "copy") if name.startswith("it-")]
    assert sent
    assert all(name.startswith("it-0004") or "it-0003/checkpoint" in name for name in sent)
    assert stubs.digests(pulled(tmp_path / "again", url)) == stubs.digests(folder / "runs" / "run")


def test_one_writer_a_mirror(url: str, data: Path, tmp_path: Path) -> None:
    store, there = ObjectStore(f"{url}/run"), machine(data, tmp_path / "there")
    other = Claim(store, tmp_path / "elsewhere")
    other.take()
    with pytest.raises(RefusedError, match=rf"is written by process {os.getpid()} on .* since 2"):
        session_of(there, url).open()
    old = json.loads(store.read(claim.CLAIM) or b"")
    store.write(claim.CLAIM, json.dumps(old | {"beat": time.time() - 301}).encode())

    def hook(mark: str) -> None:
        if mark == "after prompts 3":  # whoever was taken for dead was not
            store.write(claim.CLAIM, json.dumps(old | {"beat": time.time()}).encode())

    with stubbed(there, url) as session:
        stubs.train(session, on_stage=hook)
    assert said(there)[-1].endswith("this run goes on without its mirror")
    assert "it-0003/update/manifest.json" not in store.sizes()
    other.require()
    other.release()
    assert store.read(claim.CLAIM) is None


def test_two_runs_of_one_name_do_not_mix(
    mirrored: Path, url: str, data: Path, tmp_path: Path
) -> None:
    there, third = machine(data, tmp_path / "there"), machine(data, tmp_path / "third")
    shutil.copytree(mirrored / "runs", there / "runs", symlinks=True)
    train(there, "")  # goes on without the mirror
    train(third, url)
    with pytest.raises(RefusedError, match=r"another run than .* from attempt 2 on"):
        session_of(there, url).open()
    with pytest.raises(SystemExit):
        main(["push", str(there / "runs" / "run"), f"{url}/run"])


def test_the_mirror_follows_what_is_made_again_pruned_and_brought_back(
    data: Path, tmp_path: Path
) -> None:
    url, folder = f"file://{tmp_path}/mirror", machine(data, tmp_path / "here")
    train(folder, url)
    weights = "it-0001/update/model/model.safetensors"
    assert weights not in ObjectStore(f"{url}/run").sizes()
    with stubbed(folder, url) as session:
        perform.recover(session, 1)
    assert weights in ObjectStore(f"{url}/run").sizes()
    assert "it-0001/update/pruned.json" not in ObjectStore(f"{url}/run").sizes()
    with stubbed(folder, url, "update.learning_rate=0.05", "rollout.shards=1") as session:
        stubs.train(session, rerun=True)
    found = pulled(tmp_path / "pulled", url)
    assert stubs.digests(found) == stubs.digests(folder / "runs" / "run")
    assert "part-00001-of-00002" not in " ".join(_looked(folder, url).names)


def test_what_is_damaged_is_neither_sent_nor_taken(
    mirrored: Path, url: str, data: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "mirror" / "run"
    flip(root / "it-0002/rollout/part-00000-of-00002.parquet")
    (root / "it-0001/select/batch-00000-of-00002.parquet").unlink()
    flip(root / "it-0002/prompts/manifest.json")
    there = machine(data, tmp_path / "there")
    made = train(there, url)
    lines = "\n".join(said(there))
    assert "part-00000-of-00002.parquet: is not what was recorded" in lines
    assert (
        "it-0001/select/batch-00000-of-00002.parquet: is missing; it-0001/select is left out"
        in lines
    )
    assert {"it-0001/select", "it-0002/rollout", "it-0002/prompts"} <= set(made)
    assert "it-0002/update" not in made  # came out the same, and is kept
    assert stubs.digests(there / "runs" / "run") == whole
    assert stubs.digests(pulled(tmp_path / "pulled", url)) == whole

    shutil.copytree(mirrored / "runs" / "run", tmp_path / "run", symlinks=True)
    flip(tmp_path / "run/it-0002/verify/part-00000-of-00002.parquet")
    mirror = Mirror(RunPaths(tmp_path / "run"), "memory://damaged/run")
    lines = []
    mirror.upload(mirror.differences(), lines.append, True)
    assert len(lines) == 1
    assert lines[0].endswith("it-0002/verify/part-00000-of-00002.parquet: is not what was recorded")
    assert ("verify", 2) not in mirror.stages
    assert ("verify", 1) in mirror.stages


def test_push_and_pull(
    mirrored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], s3: str
) -> None:
    run, url, folder = mirrored / "runs" / "run", f"{s3}/pushed/run", tmp_path / "pulled"

    def call(*words: object) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return f"{exit_.value.code} {printed.out}{printed.err}"

    assert call("push", run, url).startswith(f"0 {url}: 14 stages, ")
    assert ", 0 bytes uploaded" in call("push", run, url)
    assert call("pull", url, folder, "--light").startswith("0 ")
    assert (folder / "it-0002/select/batch-00000-of-00002.parquet").is_file()
    assert not list(folder.rglob("*.safetensors"))
    assert call("ls", folder).startswith("0 ")
    facts = json.loads(call("pull", url, folder, "--json").removeprefix("0 "))
    assert facts == {"url": url, "folder": str(folder), "stages": 14, "left_out": []}
    assert stubs.digests(folder) == stubs.digests(run)
    assert "no run here" in call("pull", f"{s3}/nothing", folder)


def test_mistakes_are_one_line_with_the_mend(
    s3: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine(data, tmp_path / "here")
    for url, words in (
        ("foo://bucket/runs", r"Protocol not known: foo; give a URL as s3://bucket/runs"),
        ("gs://bucket/runs", r"a package is missing, .*gcsfs"),
        (f"file://{folder}/runs", r"is the run itself"),
        ("s3://no-such-bucket/runs", r"there is no such bucket; make it"),
    ):
        with pytest.raises(ValueError, match=words) as found:
            session_of(folder, url).open()
        assert "\n" not in str(found.value)
        assert not (folder / "runs" / "run" / "run.json").exists()
    with pytest.raises(ValueError, match="a package is missing"):
        sources.require(run_of(folder, "gs://bucket/runs"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    object_store.fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ValueError, match=r"no credentials .*AWS_PROFILE"):
        session_of(folder, f"{s3}/runs").open()


def test_the_setting_changes_no_result(data: Path, tmp_path: Path) -> None:
    one, other = (
        stubs.configuration(machine(data, tmp_path / name), "run", *changes)
        for name, changes in (("a", []), ("b", ['run.mirror="memory://x"']))
    )
    for stage in STAGES:
        assert plan.config_slice(one, stage) == plan.config_slice(other, stage)
