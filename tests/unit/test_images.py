"""Dockerfile, compose.yaml and the Slurm script, as far as they can be held without a cluster."""

import os
import re
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from places import ROOT


def test_what_the_image_copies_is_not_ignored() -> None:
    """A wheel is built from it: what pyproject.toml and the links of icpo/ name is there."""
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for pattern in kept:
        assert list(ROOT.glob(pattern)), pattern
    for link in (ROOT / "icpo").iterdir():
        if link.is_symlink():
            assert os.path.relpath(link.resolve(), ROOT) in kept
    copied = re.findall(
        r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    for name in " ".join(copied).split():
        assert name == "." or any(Path(name).match(pattern) for pattern in kept), name


def test_services_are_set_by_names_that_prefect_has() -> None:
    from prefect import settings

    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services.keys() == {"database", "server", "worker"}
    for service in services.values():
        for name in service["environment"]:
            assert name.startswith("POSTGRES_") or hasattr(settings, name)
        for other in service.get("depends_on", ()):
            assert services[other]["healthcheck"]
    pool = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["work_pool"]["name"]
    assert f"worker start --pool {pool}" in services["worker"]["command"][-1]


def test_the_build_section_is_one_once_its_marks_are_gone() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    block = re.search(r"^# build:\n(?:#  .*\n)+", text, re.MULTILINE)
    assert block
    [step] = yaml.safe_load(re.sub(r"^# ", "", block[0], flags=re.MULTILINE))["build"]
    [settings] = step.values()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert settings["tag"] == project["version"]
    assert (ROOT / settings["dockerfile"]).is_file()


@pytest.mark.parametrize(
    ("number", "status", "again"), [(signal.SIGUSR1, 138, True), (signal.SIGTERM, 143, False)]
)
def test_a_slurm_job_hands_its_signal_on_and_goes_on_with_the_run(
    number: signal.Signals, status: int, again: bool, tmp_path: Path
) -> None:
    """With a stand-in for the run, which ends as `icpo` does: a little later, by 128 + number."""
    run = tmp_path / "icpo"
    run.write_text(
        '#!/bin/bash\ntrap "sleep 0.3; exit 138" USR1; trap "sleep 0.3; exit 143" TERM\n'
        'echo "$@" > called; while :; do sleep 0.05; done\n'
    )
    queue = tmp_path / "scontrol"
    queue.write_text('#!/bin/bash\necho "$@" > queued\n')
    for file in (run, queue):
        file.chmod(0o755)
    job = subprocess.Popen(
        ["bash", str(ROOT / "examples" / "slurm.sh"), "mine.toml", "--run", "a b"], cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"},
    )  # fmt: skip
    called, limit = tmp_path / "called", time.monotonic() + 30
    while not (called.is_file() and called.read_text()):
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert called.read_text() == "train mine.toml --plain --run a b\n"
    job.send_signal(number)
    assert job.wait(30) == status
    queued = tmp_path / "queued"
    assert (queued.read_text() if queued.is_file() else "") == ("requeue 17\n" if again else "")
