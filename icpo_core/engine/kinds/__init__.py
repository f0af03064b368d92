"""The kinds of engines, one file each: `rollout.engine.kind` names one."""
