"""Model folders: the tokenizer that is loaded without `AutoTokenizer` is the one that it gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from transformers import AutoTokenizer

from icpo_core.models.folder import AS_SAVED, load_tokenizer

BASE = ROOT / "data" / "small" / "base"


def same(folder: Path) -> None:
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.init_kwargs == theirs.init_kwargs
    assert ours.chat_template == theirs.chat_template
    assert ours.all_special_ids == theirs.all_special_ids


@pytest.mark.parametrize("kind", [*AS_SAVED, "qwen2"])
@pytest.mark.parametrize(
    "name", ["TokenizersBackend", "PreTrainedTokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast"]
)
def test_a_tokenizer_with_and_without_a_class_of_its_own(
    tmp_path: Path, name: str, kind: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": name}))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": kind}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    same(folder)


def test_the_process_of_a_flow_does_not_import_torch(tmp_path: Path) -> None:
    """It starts while engine and trainer do, and has 200 MB less to hold."""
    code = f"""
import sys
from pathlib import Path
import icpo.flows.evaluate, icpo.flows.stage, icpo.flows.train
from icpo_core.config import load
from icpo_core.models.folder import load_tokenizer
from icpo_core.run.trackers import open_trackers
load_tokenizer(Path({str(BASE)!r}))
[tracker] = open_trackers(load(Path("configs/demo.toml")), Path({str(tmp_path)!r}))
tracker.log(1, {{"reward": 1.0}})
tracker.close()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
