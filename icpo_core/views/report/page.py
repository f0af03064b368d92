"""The page: data, styles, script and plotting library in one file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from icpo_core.common.files import atomic_path
from icpo_core.common.text import all_plain, html
from icpo_core.views.report.gather import gather

ASSETS = Path(__file__).resolve().parent / "assets"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>
{library}
</script>
<script>
{script}
</script>
</body>
</html>
"""


def write(roots: Sequence[Path], out: Path, evaluations: Path) -> Path:
    """Write the page of some runs. Raises ValueError as `gather` does."""
    page = render(roots, evaluations)
    with atomic_path(out) as temporary:
        temporary.write_text(page, "utf-8")
    return out


def render(roots: Sequence[Path], evaluations: Path) -> str:
    """The page of some runs, HTML."""
    shown = all_plain(gather(roots, evaluations))
    title = "ICPO: " + ", ".join(run["name"] for run in shown["runs"])
    data = json.dumps(shown, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A response may hold anything: nothing in it may end the element it stands in.
    safe = data.replace("<", "\\u003c")
    return _PAGE.format(
        title=html(title),
        style=f"{_asset('uPlot.min.css')}\n{_asset('page.css')}",
        body=_asset("page.html"),
        data=safe,
        library=_asset("uPlot.iife.min.js"),
        script="\n".join(map(_asset, ("rollouts.js", "lineage.js", "page.js"))),
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8").strip()
