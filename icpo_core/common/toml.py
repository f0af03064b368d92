"""TOML settings: reading, `-o section.key=value`, merging, and in one line what is wrong."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from icpo_core.common import keys
from icpo_core.common.keys import Renamed


def read(file: Path) -> dict[str, Any]:
    """A TOML file. Raises ValueError with one line."""
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file}: no such configuration file") from None
    except IsADirectoryError:
        raise ValueError(f"{file}: is a folder; name the TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: not valid TOML ({error})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is no UTF-8 text; save it as UTF-8") from None


def put(changes: dict[str, Any], text: str) -> None:
    """Put `section.key=value` into `changes`. Raises ValueError for another form."""
    key, separator, value = text.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ValueError(f"-o {text}: write section.key=value, for example -o run.seed=1")
    if not value.strip():
        raise ValueError(f'-o {text}: has no value; give it one, or "" for an empty text')
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    part = changes
    for step in path[:-1]:
        part = part.setdefault(step, {})
        if not isinstance(part, dict):
            raise ValueError(f"-o {text}: {step} is set to a value by another -o")
    part[path[-1]] = parsed


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def anchor(part: Any, folder: Path) -> None:
    """Make relative paths absolute, in place."""
    items = part.items() if isinstance(part, dict) else enumerate(part)
    for key, value in list(items):
        if isinstance(value, str) and value.startswith(("./", "../")):
            part[key] = str((folder / value).resolve())
        elif isinstance(value, dict | list):
            anchor(value, folder)


def nones(part: Any) -> Any:
    """TOML has no null: the word "none" stands for it."""
    if isinstance(part, dict):
        return {key: nones(value) for key, value in part.items()}
    if isinstance(part, list):
        return [nones(value) for value in part]
    return None if part == "none" else part


def first_line(error: ValidationError, root: type[BaseModel]) -> str:
    """One line for the first thing wrong, with the nearest known key for an unknown one."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(step) for step in first["loc"])
    if first["type"] == "extra_forbidden":
        section = root
        for step in first["loc"][:-1]:
            # A number or a free key stands for an element, whose model the field before it named.
            if isinstance(step, str) and step in section.model_fields:
                section = keys.model_of(section.model_fields[step].annotation) or section
        for name, field in section.model_fields.items():
            if (was := keys.said(field, Renamed)) and was.name == first["loc"][-1]:
                given = was.values.get(first["input"], next(iter(was.values.values())))
                return f"{key}: is called {name} now; write {name} = {json.dumps(given)}"
        word = str(first["loc"][-1])
        # In another section, or by the first letters of its words, or nearly so.
        near = [
            f"{name}.{word}"
            for name, field in root.model_fields.items()
            if section is root
            and (model := keys.model_of(field.annotation))
            and word in model.model_fields
        ]
        near += [
            one for one in section.model_fields if word == "".join(w[0] for w in one.split("_"))
        ]
        near += difflib.get_close_matches(word, section.model_fields, n=1)
        known = ", ".join(section.model_fields)
        return f"{key}: unknown key" + (
            f"; did you mean {near[0]}?" if near else f"; known here: {known}"
        )
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return f"{key}: {message}" if key else message
    if first["type"] in ("model_type", "dict_type"):
        return f"{key}: is a section; set a key of it, as {key}.KEY=value (got {first['input']!r})"
    if first["type"] in ("list_type", "tuple_type"):
        given = first["input"]
        if isinstance(given, str) and given[:1] in ("[", "{"):
            return f"{key}: {given} is not valid TOML; keep its quotes from the shell: -o '{key}=…'"
        parts = [one.strip() for one in given.split(",")] if isinstance(given, str) else [given]
        return f"{key}: is a list; write it in brackets, as {json.dumps(parts)}"
    return f"{key}: {first['msg'][0].lower() + first['msg'][1:]} (got {first['input']!r})"
