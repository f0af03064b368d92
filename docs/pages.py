"""What the site has beside the pages of this folder, made at its build: every configuration key
from its docstring, the help of every command, the notebook, and the sources that pages link to.

A hook of MkDocs (`mkdocs.yml`).
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from icpo.flows.cli import parser
from icpo_core.config.schema import schema

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
"""A Markdown link to a file: before, path, after."""
SOURCES = "source"
"""Folder of the site with what lies outside of docs/."""
NOTEBOOK = "notebook.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {
        "configuration.md": configuration(),
        "command-line.md": command_line(),
        "notebook.md": notebook(ROOT / "docs" / NOTEBOOK),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    waiting = list(files.documentation_pages())
    while waiting:
        file = waiting.pop()
        for found in LINK.finditer(file.content_string):
            target = lies(file.src_uri, found[2])
            page = f"{SOURCES}/{target}" + ("" if target.endswith(".md") else ".md")
            outside = not target.startswith("docs/") and (ROOT / target).is_file()
            if outside and not files.get_file_from_path(page):
                made = File.generated(config, page, content=source(target))
                files.append(made)
                waiting.append(made)
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Links to what lies outside of docs/, and to the notebook, lead to their pages."""

    def lead(found: re.Match[str]) -> str:
        here, target = page.file.src_uri, lies(page.file.src_uri, found[2])
        wanted = f"{SOURCES}/{target}" + ("" if target.endswith(".md") else ".md")
        if target.startswith("docs/"):
            wanted = target.removeprefix("docs/").replace(NOTEBOOK, "notebook.md")
        if not files.get_file_from_path(wanted):
            return found[0]  # which `--strict` refuses
        return found[1] + os.path.relpath(wanted, PurePosixPath(here).parent) + found[3]

    return LINK.sub(lead, markdown)


def lies(page: str, link: str) -> str:
    """Where a link of a page of the site leads to, from the project's folder."""
    folder = PurePosixPath(page).parent
    folder = folder.relative_to(SOURCES) if folder.parts[:1] == (SOURCES,) else "docs" / folder
    return os.path.normpath(folder / link)


def source(path: str) -> str:
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n````{Path(path).suffix[1:]}\n{text}````\n"


def configuration() -> str:
    """Every section and key: type, bounds, default, what it is for."""
    found = schema()
    lines = [
        "# Configuration",
        "",
        "Every key of the TOML file, from its docstring. `-o section.key=value` changes one; "
        '`"none"` is no value. A preset sets some of them:',
        "",
    ]
    for file in sorted((ROOT / "configs" / "presets").glob("*.toml")):
        first = file.read_text("utf-8").splitlines()[0].removeprefix("# ")
        lines.append(f"- `{file.stem}`: {first}")
    lines += ["", *_keys("", found, found["$defs"])]
    return "\n".join(lines) + "\n"


def _keys(name: str, section: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    inner = []
    if name:
        yield f"\n## {name}\n"
        yield str(section.get("description", "")) + "\n"
    for key, about in section["properties"].items():
        path = f"{name}.{key}" if name else key
        part = about.get("$ref") or about.get("items", {}).get("$ref")
        if part:
            inner.append((path, known[part.rsplit("/", 1)[-1]]))
            if not about.get("description"):
                continue
        head = f"`{path}`" + (f" = `{json.dumps(about['default'])}`" if _plain(about) else "")
        yield f"{head}  \n{_type(about)}. {about.get('description', '')}\n".replace("\n\n", "\n")
    for path, one in inner:
        yield from _keys(path, one, known)


def _plain(about: dict[str, Any]) -> bool:
    return "default" in about and "$ref" not in about


def _type(about: dict[str, Any]) -> str:
    if "enum" in about or "const" in about:
        return ", ".join(f"`{json.dumps(one)}`" for one in about.get("enum", [about.get("const")]))
    if "anyOf" in about:
        return " or ".join(map(_type, about["anyOf"]))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {about[bound]:g}" for bound, sign in bounds.items() if bound in about]
    return " ".join([about.get("type", "table"), *said])


def command_line() -> str:
    """The help of every command, as it prints it."""
    os.environ["COLUMNS"] = "90"
    top = parser()
    [commands] = [one for one in top._actions if hasattr(one, "choices") and one.choices]
    lines = ["# Command line", "", "```text", top.format_help().rstrip(), "```"]
    for name, one in dict(commands.choices or {}).items():
        lines += ["", f"## icpo {name}", "", "```text", one.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def notebook(file: Path) -> str:
    """A notebook as Markdown, with its text and pictures."""
    lines = []
    for cell in json.loads(file.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        lines.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if svg := "".join(data.get("image/svg+xml", "")):
                picture = base64.b64encode(svg.encode()).decode()
                lines.append(f"![](data:image/svg+xml;base64,{picture})")
            elif said := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                lines.append(f"```text\n{said}\n```")
    return "\n\n".join(lines) + "\n"
