"""A trainer of two ranks on two machines, by DeepSpeed's launcher."""

import os
import sys
from pathlib import Path

import psutil
import pytest
from two_ranks import gone, job

from icpo_core.config import load
from icpo_core.workers.launcher import free_port
from icpo_core.workers.pool import WorkerPool

PDSH = '''#!{python}
"""Stands in for pdsh: every host is this machine, each with its number in place of %n."""
import subprocess, sys
words = sys.argv[1:]
hosts = words[words.index("-w") + 1].split(",")
start = next(i for i, word in enumerate(words) if word.startswith("export"))
text = " ".join(words[start:])
running = [subprocess.Popen(["bash", "-c", text.replace("%n", str(n))]) for n in range(len(hosts))]
sys.exit(max(process.wait() for process in running))
'''
SSH = "#!/bin/sh\necho 127.0.0.1\n"


def listening() -> set[str]:
    """Addresses and ports at which processes below this one listen."""
    mine = psutil.Process().children(recursive=True)
    sockets = [one for process in mine for one in process.net_connections("tcp")]
    return {f"{one.laddr.ip}:{one.laddr.port}" for one in sockets if one.status == "LISTEN"}


def test_two_machines_of_a_hostfile(
    root: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's own way to several machines, with this one in the place of both."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("pdsh", PDSH.format(python=sys.executable)), ("ssh", SSH)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    hostfile = tmp_path / "hosts"
    hostfile.write_text("one slots=1\ntwo slots=1\n")
    place = f"127.0.0.1:{free_port()}"
    changes = [
        "update.ranks=0", f"update.hostfile={hostfile}", f"update.rendezvous={place}",
        "update.threads=1",
    ]  # fmt: skip
    config = load(root / "configs" / "demo.toml", changes)
    with WorkerPool(config, small / "base", tmp_path / "logs") as opened:
        reply = opened.train(job(small, tmp_path))
        assert place in listening()
    assert reply.metrics["rows"] == 6.0
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert gone(tmp_path)
