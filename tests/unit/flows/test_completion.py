"""The shell completes commands and options."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from icpo.flows import cli

ASK = """
source {file}
complete_by=$(complete -p icpo | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$complete_by icpo "${{COMP_WORDS[-1]}}"
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [("icpo tr", "train trust"), ("icpo train --pl", "--plain"), ("icpo sweep --ta", "--table")],
)
def test_bash_completes(
    words: str, completed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["completion", "bash"])
    file = tmp_path / "icpo.bash"
    file.write_text(capsys.readouterr().out)
    asked = subprocess.run(
        ["bash", "-c", ASK.format(file=file, words=words)], capture_output=True, text=True
    )
    assert asked.stdout.strip() == completed, asked.stderr
