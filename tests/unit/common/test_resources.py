"""What ships with the program is found from any folder, and a stray package breaks none of it."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from places import ROOT

from icpo.flows.cli import main
from icpo_core import config
from icpo_core.common.resources import CONFIGS, SMALL, find


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shipped_configurations_are_found_from_any_folder(empty: Path) -> None:
    demo = config.load(Path("configs/demo.toml"))
    assert Path(demo.model.path).samefile(SMALL / "base")
    changed = config.override(demo, ["update.deepspeed=configs/deepspeed/zero2.json"])
    assert changed.update.deepspeed["zero_optimization"]["stage"] == 2
    with pytest.raises(ValueError, match=r"configs/dem\.toml: no such configuration file"):
        config.load(Path("configs/dem.toml"))


def test_what_lies_in_the_folder_comes_first(empty: Path) -> None:
    mine = Path("configs/demo.toml")
    mine.parent.mkdir()
    mine.write_text("")
    assert find(mine) == mine
    assert find("configs/one-gpu.toml") == CONFIGS / "one-gpu.toml"
    assert find("demo.toml") == Path("demo.toml")


def test_icpo_alone_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert "train, or go on" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"icpo {version('icpo')}\n"


@pytest.mark.parametrize(
    ("stray", "needs", "hidden"),
    [
        ("0.28.0", "torch (==2.13.0)", True),  # what PyPI has
        ("0.28.0+cpu", "torch (==2.13.0)", False),
        ("0.27.0+cpu", "torch (==2.12.0)", True),
    ],
)
def test_a_stray_for_another_torch_is_not_there(
    tmp_path: Path, stray: str, needs: str, hidden: bool
) -> None:
    """Nor for what a worker starts; a `sitecustomize` that was there before runs, too."""
    for name, release, asked in (("torch", "2.13.0+cpu", ""), ("torchvision", stray, needs)):
        info = tmp_path / f"{name}-{release}.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", f"Version: {release}"]
        lines += [f"Requires-Dist: {asked}"] if asked else []
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('nms does not exist')\n")
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['THEIRS'] = 'ran'\n")
    found = "import os; from importlib.util import find_spec; "
    found += f"assert (find_spec('torchvision') is None) == {hidden}; assert os.environ['THEIRS']"
    code = f"""
import subprocess, sys
from icpo_core.workers.environment import for_workers
subprocess.run([sys.executable, "-c", {found!r}], env=for_workers(), check=True)
"""
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
