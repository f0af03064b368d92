"""A run's model as a folder that transformers loads, or on the Hugging Face hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from icpo_core.common import files
from icpo_core.models import folder as models
from icpo_core.run import trust
from icpo_core.run.evaluations import checkpointed
from icpo_core.run.run import Run
from icpo_core.views.model_card import card, licence_of

CARD = "README.md"
_NAMES = ("config.json", "generation_config.json", *models.TOKENIZER_FILES)
_WEIGHTS = (".safetensors", ".safetensors.index.json")


def newest(run: Run) -> int:
    """The iteration of the newest checkpoint. Raises ValueError if there is none."""
    whole = checkpointed(run)
    if not whole:
        raise ValueError(f"{run.paths.root}: has no checkpoint yet; `icpo train` makes one")
    return whole[-1]


def write(
    run: Run, iteration: int, folder: Path, evaluations: Path, licence: str = "", title: str = ""
) -> Path:
    """Weights, tokenizer and card of the policy after an iteration, whole or not at all.

    licence: of the hub's identifiers; empty: the base model's card says it. Raises ValueError for a
    folder that is not empty, or a licence that nobody names.
    """
    trust.require(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there and not empty; name another folder, or remove it")
    policy = run.policy(iteration)
    if iteration:
        run.require_whole_weights(iteration)
    licence = licence or licence_of(run.base_model) or ""
    if not licence:
        raise ValueError(
            "the base model's folder has no card that names a licence; say it with --licence, as "
            "--licence apache-2.0"
        )
    text = card(run, iteration, evaluations, licence, title)
    beside = folder.with_name(folder.name + files.TEMPORARY_SUFFIX)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for file in sorted(policy.folder.iterdir()):
            if file.name in _NAMES or file.name.endswith(_WEIGHTS):
                if (
                    iteration and file.is_symlink()
                ):  # of a run, whoever made it; a hub's cache links
                    raise ValueError(f"{file}: is a link, and could be to anything; remove it")
                shutil.copyfile(file, beside / file.name)
        (beside / CARD).write_text(text, "utf-8")
        if files.model_digest(beside) != policy.version:
            raise ValueError(f"{policy.folder}: was changed while it was copied; try again")
        files.sync_all([*beside.iterdir(), beside])
        if folder.is_dir():
            folder.rmdir()
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # there only if something failed
    return folder


def upload(folder: Path, hub_id: str, private: bool) -> str:
    """Put a folder on the hub, as the user who is logged in there; the address of its page.

    Raises ValueError with one line if the hub refuses or is out of reach.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        made = api.create_repo(hub_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Model, card and tokenizer"
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{hub_id}: the hub did not take it ({first}); check the id, the network and your "
            f"login (`hf auth login`). The folder is at {folder}"
        ) from error
    return str(made)
