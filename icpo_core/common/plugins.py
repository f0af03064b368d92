"""What a key may name: something built in, or something of your own.

    group                     built in: the object `group` in the file `group.py` of its package
    ./mine.py:centered        `centered` in a file of yours
    package.module:centered   `centered` in a module that is installed

A package of built-in things holds one file for each, named like it (`group-mean` is `group_mean`
in `group_mean.py`), beside `base.py`, which says what such a thing must do. So a new one is a new
file, and nothing else.

The source of your own thing is part of what a stage is made from: its digest goes into the
fingerprint, so that an edit makes the stage again. Of a thing in a file the digest covers that
file, so a file stands alone: it does not find modules beside it, only installed ones.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_ROOT = Path(__file__).resolve().parents[2]
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LOADED: dict[str, tuple[str, ModuleType]] = {}
"""Modules of one's own, by place, with the digest of their source."""


@dataclass(frozen=True)
class Pluggable:
    """In the annotation of a key: its value is a name out of `package`, or one's own thing."""

    package: str
    own: bool = True
    """Whether it may be one's own."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, spec: str) -> str:
        """The value, a file's path made absolute: other processes may work in other folders.

        Raises ValueError, with the names there are, for none of them. Does not look whether one's
        own thing is there: a stored configuration is read where its files may not be.
        """
        if self.own and is_own(spec):
            place, name = _parts(spec)
            if not place or not name.isidentifier():
                raise ValueError(f"{spec!r}: write path/to/file.py:name or package.module:name")
            return f"{Path(place).resolve()}:{name}" if _is_file(place) else spec
        if spec in (known := names(self.package)):
            return spec
        near = difflib.get_close_matches(spec, known, n=1)
        own = "; your own is written path/to/file.py:name" if self.own else ""
        raise ValueError(
            f"{spec!r} is none of {', '.join(known)}"
            + (f"; did you mean {near[0]}?" if near else own)
        )


def names(package: str) -> list[str]:
    """The built-in names of a package, sorted. Reads its folder and imports nothing."""
    folder = _ROOT.joinpath(*package.split("."))
    found = (file.stem for file in folder.glob("*.py") if file.stem not in ("__init__", "base"))
    return sorted(stem.replace("_", "-") for stem in found)


def is_own(spec: str) -> bool:
    """Whether a value names something that is not built in."""
    return ":" in spec


def without_folder(spec: str) -> str:
    """The value without the folder of its file: the content counts and not the place."""
    place, name = _parts(spec)
    return f"{Path(place).name}:{name}" if place and _is_file(place) else spec


def resolve(spec: str, package: str, digest: str | None = None) -> Any:
    """What `spec` names: a built-in thing from `package`, or a function or class of one's own.

    `digest`: what `source_digest` of one's own thing must be, if that is to be held. A file is
    executed once while it does not change.
    Raises ValueError, in one line that names the fix, if there is no such file, module or name, if
    the source cannot be executed, if what is named is not callable, or if the source has another
    digest.
    """
    if not is_own(spec):
        attribute = spec.replace("-", "_")
        module = importlib.import_module(f"{package}.{attribute}")
        return getattr(module, attribute)
    place, name = _parts(spec)
    source = source_of(spec)
    data = _read(spec, source)
    present = hashlib.sha256(data).hexdigest()
    if digest not in (None, present):
        raise ValueError(
            f"{source}: was edited since this run was started; start it again, or put the file back"
        )
    module = _load(place, source, data, present)
    if not hasattr(module, name):
        there = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        raise ValueError(_lacks(source, name, there))
    thing = getattr(module, name)
    if not callable(thing):
        raise ValueError(
            f"{source}: {name} is of type {type(thing).__name__} and cannot be called; name a "
            "function or a class"
        )
    return thing


def check(spec: str) -> None:
    """Look whether one's own thing is there, without executing it: what it imports may take seconds
    and gigabytes. Says nothing of built-in things.

    Raises ValueError as `resolve` if there is no such file, module or name, or no Python in it.
    """
    if not is_own(spec):
        return
    _, name = _parts(spec)
    source = source_of(spec)
    data = _read(spec, source)
    if source.suffix != ".py":
        return
    try:
        tree = ast.parse(data)
    except SyntaxError as error:
        raise ValueError(f"{source}: {why(error)}") from None
    defined = [one.name for one in tree.body if isinstance(one, _DEFINITIONS)]
    bound = {one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}
    bound |= {one.asname or one.name for one in ast.walk(tree) if isinstance(one, ast.alias)}
    if name not in {*defined, *bound} and "*" not in bound:
        raise ValueError(_lacks(source, name, defined))


def source_digest(spec: str) -> str | None:
    """sha256 of the file that holds one's own thing, as it is now; None if it is built in.

    Executes nothing of a file; a module's parent package is imported. Raises ValueError if there
    is no such file or module.
    """
    if not is_own(spec):
        return None
    return hashlib.sha256(_read(spec, source_of(spec))).hexdigest()


def _lacks(source: Path, name: str, there: list[str]) -> str:
    return f"{source}: has no {name}; it defines {', '.join(there) or 'no function or class'}"


def _parts(spec: str) -> tuple[str, str]:
    """File or module, and name."""
    place, _, name = spec.rpartition(":")
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def source_of(spec: str) -> Path:
    """The file of one's own thing. Raises ValueError if there is no such module."""
    place, _ = _parts(spec)
    if _is_file(place):
        return Path(place).resolve()
    try:
        found = importlib.util.find_spec(place)
    except Exception as error:
        # A parent package is imported, and what stands in it may raise anything.
        raise ValueError(f"{spec}: {why(error)}") from error
    if found is None or not found.has_location or found.origin is None:
        raise ValueError(
            f"{spec}: there is no module {place}; install it for {sys.executable}, or name a file: "
            "./path/to/file.py:name"
        )
    return Path(found.origin)


def _read(spec: str, source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{source}: {error.strerror}; {spec} is to be read from it: check the path (./ begins "
            "at the TOML file, on the command line at the working folder)"
        ) from None


def _load(place: str, source: Path, data: bytes, digest: str) -> ModuleType:
    """The module, executed anew where its source has changed."""
    known = _LOADED.get(place)
    if known is not None and known[0] == digest:
        return known[1]
    try:
        if not _is_file(place):
            module = importlib.import_module(place)
            if known is not None:
                module = importlib.reload(module)
        else:
            module = ModuleType(f"{source.stem}_{digest[:12]}")
            module.__file__ = str(source)
            # Dataclasses look for their module there.
            sys.modules[module.__name__] = module
            # From the bytes that were digested: what runs is what is in the fingerprint.
            exec(compile(data, str(source), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        # It is somebody's program, and may raise anything.
        raise ValueError(f"{source}: {why(error, source)}") from error
    _LOADED[place] = digest, module
    return module


def why(error: BaseException, source: Path | None = None) -> str:
    """One line for what a source raised while it was executed, with its own line number."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((one.lineno for one in reversed(frames) if one.filename == str(source)), None)
    if isinstance(error, SyntaxError):
        line = error.lineno
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and source is not None:
        beside = source.with_name(f"{error.name}.py")
        if beside.is_file():
            text += f"; put what it needs of {beside.name} into this file, or install it"
    return (f"line {line}: " if line else "") + f"{type(error).__name__}: {text}"
