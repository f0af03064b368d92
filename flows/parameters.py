"""Parameters of the flows. The Prefect UI makes a form of them, and it and the API refuse a value
that does not fit; so does the flow itself. What only the disk can say (is there such a run?) is
said by the flow, in one line."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Configuration = Annotated[
    str, Field(pattern=r"^\S(.*\S)?$", examples=["configs/demo.toml", "runs/demo"])
]
"""Path of a TOML file, or of the folder of a run that goes on."""
RunName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", examples=["demo-seed1"])]
"""Name of a run, or nothing."""
BranchName = RunName
"""Name of a branch of a run, or nothing."""
RunFolder = Annotated[str, Field(pattern=r"^\S(.*\S)?$", examples=["runs/demo"])]
"""Path of a run's folder."""
Override = Annotated[
    str,
    Field(
        pattern=r"^\s*[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_-]+)*\s*=\s*\S.*$",
        examples=["run.seed=1", "select.errs=off"],
    ),
]
"""One change of a configuration: section.key=value."""
Iteration = Annotated[int, Field(ge=1, examples=[2])]
"""A training iteration; the first is 1."""
Evaluated = Annotated[int, Field(ge=0, examples=[0, 10])]
"""An iteration whose policy is evaluated; 0 is the untrained one."""
