"""Token ids of a model: those that end a response, and those that the tokenizer does not have.

Four places say where a response ends: the generation config (or the config where it says nothing),
the tokenizer's own end, and the token with which the chat template ends an assistant's turn. They
differ more often than not: a base model with a chat template ends a turn in one token and a text
in another. Here all of them are asked, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from icpo_core.common.files import read_json
from icpo_core.models.folder import load_tokenizer

_SAID = "icpo said so"
"""What an assistant says to the chat template, to be found again."""


@dataclass(frozen=True)
class Tokens:
    """What a model's folder says of its token ids. `tokenizer` None: it has none."""

    folder: Path
    rows: int
    """Of the embedding."""
    pad: int | None
    stated: tuple[int, ...]
    """Ends in the generation config, else in the config."""
    tokenizer: Any = None

    @cached_property
    def turn_end(self) -> int | None:
        """The special token that ends an assistant's turn in the chat template; None without."""
        return None if self.tokenizer is None else turn_end(self.tokenizer)

    @cached_property
    def stop_ids(self) -> list[int]:
        """Every id that ends a response, as many as there are; those that are stated first.

        Raises ValueError with one line if there is none.
        """
        own = None if self.tokenizer is None else self.tokenizer.eos_token_id
        found = list(dict.fromkeys([*self.stated, *_there(own, self.turn_end)]))
        if not found:
            raise ValueError(
                f"{self.folder}: no id ends a response: neither generation_config.json nor "
                "config.json has eos_token_id, and neither tokenizer nor chat template names an "
                "end; set eos_token_id in generation_config.json"
            )
        return found

    def differences(self) -> str | None:
        """What the places say of the end of a response, if they do not say the same."""
        if self.tokenizer is None:
            return None
        said = {
            "generation config" if self.in_generation_config else "config": self.stated,
            "tokenizer": tuple(_there(self.tokenizer.eos_token_id)),
            "chat template": tuple(_there(self.turn_end)),
        }
        said = {place: ids for place, ids in said.items() if ids}
        if len({frozenset(ids) for ids in said.values()}) < 2:
            return None
        places = ", ".join(f"{place} {self._named(ids)}" for place, ids in said.items())
        return f"where a response ends is said differently: {places}; each of them ends one"

    @cached_property
    def unknown(self) -> tuple[tuple[int, int], ...]:
        """Ids of the embedding that no token of the tokenizer has, as ranges [first, end): an
        embedding is padded to a round number of rows."""
        if self.tokenizer is None:
            return ()
        edges = [-1, *sorted(self._ids), self.rows]
        return tuple(
            (before + 1, after)
            for before, after in pairwise(edges)
            if before + 1 < after and before < self.rows
        )

    @cached_property
    def _ids(self) -> set[int]:
        return set(self.tokenizer.get_vocab().values())

    def faults(self, chat: bool) -> list[str]:
        """What would end a run in an index that is out of range, or never end a response, a line
        each with its fix. `chat`: prompts go through the chat template."""
        found = []
        if self.pad is not None and not 0 <= self.pad < self.rows:
            found.append(
                f"{self.folder}/config.json: pad_token_id = {self.pad} is none of the embedding's "
                f"{self.rows} rows; set it to one of them, or to null"
            )
        try:
            outside = [id_ for id_ in self.stop_ids if not 0 <= id_ < self.rows]
        except ValueError as error:
            return [*found, str(error)]
        if outside:
            found.append(
                f"{self.folder}: a response would end in id {outside[0]}, and the embedding has "
                f"{self.rows} rows; mend eos_token_id in generation_config.json, or the tokenizer"
            )
        if chat and (beyond := [id_ for id_ in self._asked() if id_ >= self.rows]):
            found.append(
                f"{self.folder}: the chat template uses {self._named(beyond[:1])}, and the "
                f"embedding has {self.rows} rows; resize it (resize_token_embeddings), or take the "
                "token out of the template"
            )
        return found

    def notes(self) -> list[str]:
        """What works and should be known, a line each."""
        found = [said] if (said := self.differences()) else []
        if self.unknown:
            count = sum(end - first for first, end in self.unknown)
            found.append(
                f"{count} of {self.rows} ids are no token of the tokenizer: they are never "
                "sampled, and have no part in the logprobs"
            )
        if self.tokenizer is not None and (beyond := [i for i in self._ids if i >= self.rows]):
            found.append(
                f"the tokenizer has {len(beyond)} ids past the embedding's {self.rows} rows, as "
                f"{self._named([min(beyond)])}: a prompt that holds one is refused"
            )
        return found

    def _asked(self) -> list[int]:
        """Ids of what the chat template writes around a prompt."""
        if self.tokenizer is None or not getattr(self.tokenizer, "chat_template", None):
            return []
        import jinja2  # whoever only plans goes without

        found: list[int] = []
        for switch in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
            try:
                text = self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": "1"}],
                    tokenize=False,
                    add_generation_prompt=True,
                    **switch,
                )
            except (jinja2.TemplateError, ValueError):
                return []
            found += self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    @property
    def in_generation_config(self) -> bool:
        return bool(_ends(self.folder / "generation_config.json"))

    def _named(self, ids: Iterable[int]) -> str:
        names = self.tokenizer.convert_ids_to_tokens(list(ids))
        return " and ".join(f"{id_} {name}" for id_, name in zip(ids, names, strict=True))


def rows(folder: Path) -> int:
    """Rows of a model's embedding: ids go from 0 up to them."""
    config = read_json(folder / "config.json")
    found: int = config.get("text_config", config)["vocab_size"]
    return found


def read(folder: Path) -> Tokens:
    """Read a model's folder. Raises ValueError with one line if it has no config.json."""
    config = read_json(folder / "config.json")
    text = config.get("text_config", config)
    pad = config.get("pad_token_id", text.get("pad_token_id"))
    stated = _ends(folder / "generation_config.json") or _ends(folder / "config.json")
    there = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return Tokens(folder, rows(folder), pad, stated, load_tokenizer(folder) if there else None)


def stop_ids(folder: Path) -> list[int]:
    """Every id that ends a response of the model in `folder`. Raises ValueError if none does."""
    return read(folder).stop_ids


def turn_end(tokenizer: Any) -> int | None:
    """The special token with which the chat template ends an assistant's turn; None without one."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    import jinja2

    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": _SAID}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (jinja2.TemplateError, ValueError):
        return None  # it takes no such turns: nothing is known of its end
    _, found, after = str(text).rpartition(_SAID)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    return next((id_ for id_ in ids if id_ in special), None)


def end_of_trace(tokenizer: Any, stops: list[int], prompt_ids: Sequence[int] | None = None) -> int:
    """The id of `stops` that ends a text which was not sampled, as the model itself would end it.

    The end of a turn, where the turns of the prompt end in it (a raw prompt has none); else the
    tokenizer's own, else the first.
    """
    turn = turn_end(tokenizer)
    if prompt_ids is not None and turn not in prompt_ids:
        turn = None
    ends = _there(turn, tokenizer.eos_token_id)
    return next((id_ for id_ in ends if id_ in stops), stops[0])


def _there(*ids: int | None) -> Iterator[int]:
    return (id_ for id_ in ids if id_ is not None)


def _ends(file: Path) -> tuple[int, ...]:
    said = read_json(file) if file.is_file() else {}
    ids = said.get("eos_token_id", said.get("text_config", {}).get("eos_token_id"))
    return () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)
