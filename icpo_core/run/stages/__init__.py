"""The stages of an iteration: one file and one object each.

    prompts -> rollout -> verify -> select -> update -> evaluate -> checkpoint

and `teach` before `update`, with self-distillation.

This list is the only one: the plan, the tasks, the flows and the branches are made from it.
"""

from icpo_core.run.stages import (
    checkpoint,
    evaluate,
    prompts,
    rollout,
    select,
    teach,
    update,
    verify,
)
from icpo_core.run.stages.base import Stage

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        prompts.STAGE,
        rollout.STAGE,
        verify.STAGE,
        select.STAGE,
        teach.STAGE,
        update.STAGE,
        evaluate.STAGE,
        checkpoint.STAGE,
    )
}
