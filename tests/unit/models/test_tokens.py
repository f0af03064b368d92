"""Ends of a response and ids without a token, on models whose files disagree."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from icpo_core.engine.jobs import _trace
from icpo_core.engine.kinds.base import eos_token_ids
from icpo_core.models import tokens

BASE = ROOT / "data" / "small" / "base"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<turn|>", "<|eot|>"]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
IM_END = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = "{% for m in messages %}{{ m.content }}<turn|>\n{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
KNOWN = len(SPECIAL) + len(LETTERS)


def model(
    folder: Path, template: str | None = IM_END, eos: str | None = "<|im_end|>",
    generation: Any = None, config: Any = None, rows: int = KNOWN, added: tuple[str, ...] = (),
    **more: Any,
) -> Path:  # fmt: skip
    """A model's folder without weights: token ids are all that is looked at."""
    folder.mkdir(exist_ok=True)
    vocabulary = {text: at for at, text in enumerate([*SPECIAL, *LETTERS])}
    backend = Tokenizer(kinds.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)
    tokenizer.chat_template = template
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)
    said = {"model_type": "llama", "vocab_size": rows, "eos_token_id": config, **more}
    (folder / "config.json").write_text(json.dumps(said))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    return folder


@dataclass
class Stops:
    """Of an engine only what a trace asks for."""

    eos_ids: list[int]
    policy_version: str = "v"


@pytest.mark.parametrize(
    ("said", "stops", "end", "differs"),
    [
        ({"generation": 2}, [2], 2, False),
        # Llama-3's and Gemma-3's lists begin with the end of a text, not of a turn.
        ({"generation": [0, 5, 2]}, [0, 5, 2], 2, True),
        ({"generation": [0, 4], "template": GEMMA, "eos": "<|endoftext|>"}, [0, 4], 4, True),
        # A base model with a chat template: nobody but the template knows of <|im_end|>.
        ({"generation": 0, "eos": "<|endoftext|>"}, [0, 2], 2, True),
        ({"config": 0, "eos": "<|endoftext|>"}, [0, 2], 2, True),
        ({"generation": [5, 1], "template": None, "eos": "<|im_start|>"}, [5, 1], 1, True),
        ({"config": 5, "template": PLAIN, "eos": "<|im_end|>"}, [5, 2], 2, True),
        ({"template": None}, [2], 2, False),
        ({"eos": None}, [2], 2, False),
        ({"generation": [0, 5], "template": None, "eos": None}, [0, 5], 0, False),
    ],
)
def test_where_a_response_ends(
    tmp_path: Path, said: dict, stops: list[int], end: int, differs: bool
) -> None:
    folder = model(tmp_path / "model", **said)
    found = tokens.read(folder)
    assert eos_token_ids(folder) == found.stop_ids == stops
    assert (found.differences() is not None) is differs
    assert not found.faults(True)
    prompt = {"prompt_id": "p", "trace": "x = 1"}
    row = _trace(prompt, 0, found.tokenizer, Stops(stops), 100)  # type: ignore[arg-type]
    assert row is not None
    assert row["response_ids"][-1] == end
    assert row["response_ids"][:-1] == found.tokenizer("x = 1")["input_ids"]


def test_a_raw_prompt_s_trace_ends_as_a_text_does(tmp_path: Path) -> None:
    found = tokens.read(model(tmp_path / "model", generation=0, eos="<|endoftext|>"))
    for text, end in (("<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n", 2), ("Q: 1", 0)):
        ids = found.tokenizer(text)["input_ids"]
        prompt = {"prompt_id": "p", "trace": "x", "policy_prompt_ids": ids}
        row = _trace(prompt, 0, found.tokenizer, Stops(found.stop_ids), 9)  # type: ignore[arg-type]
        assert row is not None
        assert row["response_ids"][-1] == end


def test_what_the_places_say_is_said(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", generation=[0, 5], eos="<|im_end|>")
    assert tokens.read(folder).differences() == (
        "where a response ends is said differently: generation config 0 <|endoftext|> and 5 "
        "<|eot|>, tokenizer 2 <|im_end|>, chat template 2 <|im_end|>; each of them ends one"
    )


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"pad_token_id": -1}, "pad_token_id = -1 is none of the embedding's"),
        ({"pad_token_id": KNOWN}, f"pad_token_id = {KNOWN} is none"),
        ({"template": None, "eos": None}, "no id ends a response"),
        ({"generation": [2, 9_999]}, "a response would end in id 9999"),
        (
            {
                "template": IM_END.replace("assistant\n", "assistant\n<think>"),
                "added": ("<think>",),
            },
            f"the chat template uses {KNOWN} <think>, and the embedding has {KNOWN} rows",
        ),
    ],
)
def test_ids_out_of_range_are_refused(tmp_path: Path, said: dict, fault: str) -> None:
    (line,) = tokens.read(model(tmp_path / "model", **said)).faults(True)
    assert fault in line
    assert "\n" not in line


def test_ids_that_no_token_has(tmp_path: Path) -> None:
    padded = tokens.read(model(tmp_path / "padded", rows=KNOWN + 128))
    assert padded.unknown == ((KNOWN, KNOWN + 128),)
    assert padded.notes() == [
        f"128 of {KNOWN + 128} ids are no token of the tokenizer: they are never sampled, and have "
        "no part in the logprobs"
    ]
    more = tokens.read(model(tmp_path / "more", added=("<think>", "</think>")))
    assert more.unknown == ()
    assert not more.faults(True)  # nothing that is asked uses them
    assert "2 ids past the embedding's" in more.notes()[0]


def test_the_small_model_has_a_token_for_every_id() -> None:
    found = tokens.read(BASE)
    assert (found.rows, found.unknown, found.stop_ids) == (99, (), [1])
    assert not found.faults(True)
    assert not found.notes()


def test_a_folder_without_a_tokenizer_says_what_its_configs_say(tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        shutil.copy(BASE / name, tmp_path)
    found = tokens.read(tmp_path)
    assert (found.stop_ids, found.unknown, found.notes()) == ([1], (), [])
