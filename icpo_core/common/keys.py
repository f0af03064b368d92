"""What a key of the configuration says about itself, and what of a section makes a fingerprint.

A run is gone on with by later versions of this program, so a fingerprint must not change because
the configuration grew. Three things said beside a key see to that:

- `Since(value)`: the value under which everything is as it was before the key was there. A key
  with that value is left out of the fingerprint.
- `Renamed(...)`: the key's former name, under which its values go on to be fingerprinted.
- `Outward()`: the key chooses a program, an address or a file outside of the run.
- `Pluggable(package)` (`icpo_core.common.plugins`): of one's own source file only name and content
  count, not the folder it lies in.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from icpo_core.common import plugins
from icpo_core.common.plugins import Pluggable

# Marks: an operational field changes how the work is done, never its result, and a source field
# names data whose content counts rather than its place. Neither is part of a fingerprint.
Operational = Field(json_schema_extra={"mark": "operational"})
Source = Field(json_schema_extra={"mark": "source"})

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True)
class Since:
    """In the annotation of a key newer than v0.1.0: the value with which nothing changes."""

    value: Any


@dataclass(frozen=True)
class Outward:
    """In the annotation of a key that chooses what is executed, asked or written to, so that it is
    not taken from a run of somebody else (`icpo_core.run.trust`)."""

    paths: bool = False
    """Only if there is a path in the value."""


@dataclass(frozen=True)
class Renamed:
    """In the annotation of a key that stands where another one stood."""

    version: str
    """The first version with today's name."""
    name: str
    """The former key, in the same section."""
    values: Mapping[Any, Any]
    """Each former value and what it is today."""

    def former(self, value: Any) -> Any:
        """What today's value was called; KeyError if there was no such thing."""
        return {today: former for former, today in self.values.items()}[value]


def mark(field: FieldInfo) -> str | None:
    """`operational`, `source` or None."""
    extra = field.json_schema_extra
    found = extra.get("mark") if isinstance(extra, dict) else None
    return found if isinstance(found, str) else None


def said(field: FieldInfo, kind: type[_T]) -> _T | None:
    """What the annotation of a field holds of a kind."""
    return next((one for one in field.metadata if isinstance(one, kind)), None)


def slice_of(section: BaseModel) -> dict[str, Any]:
    """The part of a section that can change a result, by key: what goes into a fingerprint.

    Without operational and source fields, and without what says the same as its absence (`Since`).
    """
    part: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if mark(field) in ("operational", "source"):
            continue
        value = getattr(section, name)
        since, renamed = said(field, Since), said(field, Renamed)
        if since is not None and value == since.value:
            continue
        if isinstance(value, BaseModel):
            if inner := slice_of(value):
                part[name] = inner
        elif renamed is not None and value in renamed.values.values():
            part[renamed.name] = renamed.former(value)
        elif said(field, Pluggable):
            part[name] = plugins.without_folder(value)
        elif isinstance(value, list):
            part[name] = [slice_of(v) if isinstance(v, BaseModel) else v for v in value]
        else:
            part[name] = list(value) if isinstance(value, tuple) else value
    return part


def in_todays_words(
    stored: Mapping[str, Any], model: type[BaseModel], whole: bool = False
) -> dict[str, Any]:
    """A stored section, or slice of one, with the names that its keys have now.

    `whole`: with what a slice leaves out, too, so that two slices can be compared key by key.
    A former value that is not among the known ones stays, for the validation to name it.
    """
    words = dict(stored)
    for name, field in model.model_fields.items():
        since, renamed, inner = said(field, Since), said(field, Renamed), model_of(field.annotation)
        if renamed is not None and renamed.name in words:
            former = words.pop(renamed.name)
            words[name] = renamed.values.get(former, former)
        if whole and since is not None:
            words.setdefault(name, since.value)
        if whole and inner is not None and _all_new(inner):
            words.setdefault(name, {})
        if inner is not None and isinstance(words.get(name), Mapping):
            words[name] = in_todays_words(words[name], inner, whole)
    return words


def _all_new(section: type[BaseModel]) -> bool:
    """Whether all keys of a section are newer than v0.1.0, so that it may be missing as a whole."""
    return all(said(field, Since) is not None for field in section.model_fields.values())


def keeping(section: _M, stored: Mapping[str, Any], preset: bool = True) -> _M:
    """The section with the stored value of each key that is newer than what was stored, that has
    another default than the neutral one, and that nobody has set.

    preset: and of those whose value a preset has moved (`left_to`), as long as it is the same one.
    """
    changed: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, since = getattr(section, name), said(field, Since)
        if name not in stored:
            continue
        if isinstance(value, BaseModel) and isinstance(stored[name], Mapping):
            inner = keeping(value, stored[name], preset)
            if inner is not value:
                changed[name] = inner
            continue
        moved = since is not None and (
            field.default != since.value or (preset and value != field.default)
        )
        if moved and name not in section.model_fields_set and value != stored[name]:
            changed[name] = stored[name]
    return section.model_copy(update=changed) if changed else section


def left_to(section: BaseModel, preset: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Count the keys that are newer than v0.1.0 as set by nobody where only a preset sets them: it
    may have come to set them after a run began with it."""
    for name, field in type(section).model_fields.items():
        inner, mine = preset.get(name), given.get(name, {})
        if isinstance(inner, Mapping) and isinstance(getattr(section, name), BaseModel):
            left_to(getattr(section, name), inner, mine if isinstance(mine, Mapping) else {})
        elif name in preset and name not in given and said(field, Since) is not None:
            section.model_fields_set.discard(name)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a field: itself, or of a list's or table's elements."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in typing.get_args(annotation)[::-1]:
        if found := model_of(part):
            return found
    return None


def outward(section: BaseModel, above: str = "") -> dict[str, str]:
    """What a configuration chooses outside of the run, by key: values of `Outward` keys that are
    not the default, and one's own sources of `Pluggable` keys."""
    found: dict[str, str] = {}
    for name, field in type(section).model_fields.items():
        key, value = f"{above}{name}", getattr(section, name)
        if isinstance(value, BaseModel):
            found |= outward(value, f"{key}.")
        elif isinstance(value, list) and any(isinstance(one, BaseModel) for one in value):
            for at, one in enumerate(value):
                found |= outward(one, f"{key}.{at}.")
        elif said(field, Pluggable):
            found |= {key: value} if ":" in value else {}
        elif (mine := said(field, Outward)) is not None and value != field.default:
            text = json.dumps(value, sort_keys=True)
            found |= {key: text} if not mine.paths or "/" in text else {}
    return found
