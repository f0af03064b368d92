"""JSON Schema of a configuration file, by which editors complete, explain and check its keys."""

from __future__ import annotations

from typing import Any

from icpo_core.config import Config


def schema() -> dict[str, Any]:
    """Of a TOML file as `icpo_core.config.load` reads it.

    TOML has no null, so "none" stands for it, and `update.deepspeed` may be a file's path.
    """
    found = Config.model_json_schema()
    settings = found["$defs"]["UpdateSection"]["properties"]["deepspeed"]
    settings["anyOf"] = [{"type": settings.pop("type")}, {"type": "string"}]
    settings.pop("additionalProperties", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ICPO configuration",
        **_without_null(found),
    }


def _without_null(part: Any) -> Any:
    if isinstance(part, dict):
        kept = {key: _without_null(value) for key, value in part.items() if value is not None}
        return {"const": "none"} if kept == {"type": "null"} else kept
    return [_without_null(one) for one in part] if isinstance(part, list) else part
