"""Model folders: where the weights and the tokenizer of a model are, and what they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from icpo_core.common import strays
from icpo_core.common.files import canonical_digest, read_json, sha256_file

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
AS_SAVED = ("llama", "qwen3")
"""Types of models whose tokenizer `AutoTokenizer` loads as what it was saved as."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def resolve(path: str) -> Path:
    """The folder of a model, fetched from the Hugging Face hub if `path` is a hub id.

    Raises ValueError with one line if there is no such folder and no such model to be had.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(path):
        raise ValueError(
            f"model.path = {path}: no such folder; give a folder with config.json and "
            "*.safetensors, or a hub id such as Qwen/Qwen3-1.7B"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"model.path = {path}: neither a folder nor to be had from the hub ({first}); "
            "check the id, the network and your login, or give a folder"
        ) from error


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer of a model folder or hub id, as `AutoTokenizer` gives it.

    `AutoTokenizer` imports torch and most of transformers before it looks for a class: ten seconds
    on two cores that engine and trainer want at that very time, and 200 MB. So a tokenizer that was
    saved without a class of its own is loaded as what it was saved as, where `AutoTokenizer` does
    the same: of some types of models, such as qwen2, it takes the type's class whatever was saved.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "config.json")
    files = [Path(folder) / name for name in names]
    if all(file.is_file() for file in files):
        said, config = read_json(files[1]), read_json(files[2])
        plain = said.get("tokenizer_class") == "TokenizersBackend" and "auto_map" not in said
        if plain and config.get("model_type") in AS_SAVED:
            strays.hide()
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder)
    strays.hide()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def tokenizer_digest(folder: Path) -> str:
    """Digest of everything that decides how text becomes token ids."""
    return canonical_digest(
        {name: sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    )


def settings_digest(folder: Path) -> str:
    """Digest of what a model folder says of its architecture and of where sequences end."""
    names = ("config.json", "generation_config.json")
    return canonical_digest(
        {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}
    )
