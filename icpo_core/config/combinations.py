"""Combinations of settings of several sections that nothing would come of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icpo_core.config import Config


def require_steering(config: Config) -> None:
    """Refuse settings of steering that nothing would come of."""
    rollout = config.rollout
    failed = rollout.steer == "failed"
    for key, set_ in (
        ("rollout.steer_below", rollout.steer_below > 0.0),
        ("rollout.expert_tries", rollout.expert_tries > 1),
    ):
        if set_ and not failed:
            raise ValueError(f"{key} is for rollout.steer = failed: set that, or leave it out")
    if config.prompts.k_growth and rollout.expert_tries == 1:
        raise ValueError(
            "prompts.k_growth is for further tries: set rollout.expert_tries >= 2, or leave it out"
        )
    if rollout.expert_tries > 1 and rollout.expert_source == "traces":
        raise ValueError(
            "rollout.expert_source = traces has one trace a problem: rollout.expert_tries = 1"
        )
    if failed and not rollout.on_policy:
        raise ValueError(
            "rollout.steer = failed asks what bare rollouts come to: set rollout.on_policy >= 1"
        )
    steers = failed or rollout.steer_share < 1.0 or rollout.steer_schedule != "constant"
    if steers and not rollout.expert:
        raise ValueError(
            "rollout.steer and rollout.steer_share are about expert rollouts: set "
            "rollout.expert >= 1, or leave them out"
        )
    timed = rollout.steer_schedule in ("linear", "cosine")
    if not timed and rollout.steer_horizon is not None:
        raise ValueError(
            "rollout.steer_horizon is for a steer_schedule that is not constant, linear or cosine: "
            "set that, or leave it out"
        )
    if rollout.steer_schedule == "pass_rate" and not rollout.on_policy:
        raise ValueError(
            "rollout.steer_schedule = pass_rate asks what bare rollouts came to: set "
            "rollout.on_policy >= 1"
        )


OF_ONE = ("math", "math-verify", "choice", "code", "reasoning-gym")
"""Verifiers whose largest reward is 1."""
OF_GROUPS = ("group", "group-mean", "rloo", "maxrl")
"""Advantages that are 0 in a group of one."""


def require_use(config: Config) -> None:
    """Refuse to start a run of which nothing could come. What is stored is read all the same."""
    rollout, select, update = config.rollout, config.select, config.update
    judged = not config.verify.rewards and config.verify.verifier in OF_ONE
    if rollout.expert and select.errs != "off" and judged and select.delta > 1.0:
        raise ValueError(
            f"select.delta = {select.delta:g} accepts no expert rollout, since rewards are 1 at "
            "most: set select.delta = 1"
        )
    alone = rollout.on_policy + rollout.expert == 1 and select.advantage in OF_GROUPS
    if alone and not config.loss.distills:
        raise ValueError(
            "rollout.on_policy and rollout.expert make groups of one, whose advantage is always 0 "
            f"(select.advantage = {select.advantage}): set rollout.on_policy >= 2"
        )
    if select.bonus != "off" and rollout.expert and select.alpha == 0.0:
        raise ValueError(
            f"select.alpha = 0 is a select.bonus = {select.bonus} of nothing: raise it, or set "
            "select.bonus = off"
        )
    if update.learning_rate >= 1.0:
        raise ValueError(
            f"update.learning_rate = {update.learning_rate:g} is no step that AdamW can take: "
            "lower it, as to 1e-6"
        )
    if max(update.betas) == 1.0:
        raise ValueError("update.betas: of AdamW are less than 1, as [0.9, 0.999]")


def require_pool(config: Config) -> None:
    """Refuse a pool that cannot grow, or into which nothing could come."""
    prompts, rollout = config.prompts, config.rollout
    if prompts.pool == "fixed":
        return
    if not rollout.expert or rollout.expert_source == "traces":
        raise ValueError(
            "prompts.pool is about the demonstrations of expert rollouts: set rollout.expert >= 1 "
            "and rollout.expert_source = in_context, or prompts.pool = fixed"
        )
    if prompts.selection == "best":
        raise ValueError(
            "prompts.selection = best goes by a score that no rollout has: set random or similar, "
            "or prompts.pool = fixed"
        )
    if prompts.pool == "bare" and not rollout.on_policy:
        raise ValueError("prompts.pool = bare needs bare rollouts: set rollout.on_policy >= 1")


def require_verdicts(config: Config) -> None:
    """Refuse to sample before there are the verdicts that it is to go by."""
    steps = config.rollout.off_policy_steps
    for key, asks in (
        ("prompts.pool", config.prompts.pool != "fixed"),
        ("rollout.steer_schedule", config.rollout.steer_schedule == "pass_rate"),
    ):
        if asks and steps > 1:
            raise ValueError(
                f"rollout.off_policy_steps = {steps} samples before the iteration before is "
                f"judged, and {key} goes by its verdicts: set rollout.off_policy_steps = 1, or "
                f"leave {key} out"
            )


def require_partial(config: Config) -> None:
    """Refuse partial rollouts that are cut nowhere, or whose groups cannot wait."""
    rollout, cut = config.rollout, config.rollout.partial_tokens
    if not cut:
        return
    if cut >= rollout.max_tokens or rollout.max_tokens % cut:
        near = max(
            (
                n
                for n in range(1, min(cut, rollout.max_tokens // 2) + 1)
                if rollout.max_tokens % n == 0
            ),
            default=1,
        )
        raise ValueError(
            f"rollout.partial_tokens = {cut} must divide rollout.max_tokens = "
            f"{rollout.max_tokens}: set {near}, or leave it out"
        )
    for key, asks in (
        ("rollout.steer = failed", rollout.steer == "failed"),
        ("prompts.fill", config.prompts.fill > 0),
    ):
        if asks:
            raise ValueError(
                f"{key} goes by the verdicts on whole groups within an iteration, and "
                "rollout.partial_tokens lets them end in a later one: leave out either"
            )


def require_tuning(config: Config) -> None:
    """Refuse fine-tuning on what is not there, or what its group needs."""
    select, rollout = config.select, config.rollout
    if not select.tuning_buffer:
        return
    if not (rollout.expert and rollout.on_policy):
        raise ValueError(
            "select.tuning_buffer learns expert rollouts of what bare rollouts cannot solve: set "
            "rollout.expert >= 1 and rollout.on_policy >= 1, or leave it out"
        )
    if select.errs in ("replace", "mask") or select.bonus != "off":
        raise ValueError(
            "select.tuning_buffer takes expert rollouts out of their group: set select.errs = drop "
            "or off, and select.bonus = off"
        )
    if config.loss.expert_context == "shown":
        raise ValueError(
            "select.tuning_buffer learns expert rollouts under the bare prompt: set "
            "loss.expert_context = bare"
        )


def require_teacher(config: Config) -> None:
    """Refuse self-distillation without anything to teach, or to learn from."""
    loss, prompts = config.loss, config.prompts
    if not loss.distills:
        if loss.policy_coefficient == 0:
            raise ValueError(
                "loss.policy_coefficient = 0 leaves nothing to learn from: set "
                "loss.distill.coefficient, or leave it out"
            )
        if loss.distill.schedule != "constant":
            raise ValueError(
                "loss.distill.schedule is about a teacher, and there is none: set "
                "loss.distill.coefficient, or leave it out"
            )
        return
    if loss.distill.schedule == "constant" and loss.distill.horizon is not None:
        raise ValueError(
            "loss.distill.horizon is for a schedule that is not constant, linear or cosine: set "
            "that, or leave it out"
        )
    if loss.distill.schedule != "constant" and loss.policy_coefficient == 0:
        raise ValueError(
            "loss.distill.schedule fades to nothing, and loss.policy_coefficient = 0 has nothing "
            "beside it: leave out either"
        )
    if not config.rollout.on_policy:
        raise ValueError(
            "loss.distill teaches on bare rollouts, and there are none: set rollout.on_policy >= 1"
        )
    zero = config.update.deepspeed.get("zero_optimization", {}).get("stage", 0)
    if loss.teacher == "average" and zero == 3:
        raise ValueError(
            "loss.distill.teacher = average keeps whole weights on every rank, and ZeRO-3 has none "
            "whole: set stage 2 in update.deepspeed, or loss.distill.teacher = policy"
        )
    shows = loss.distill.context == "demonstrations"
    if shows and not (prompts.demonstrations and prompts.k):
        raise ValueError(
            "loss.distill.context = demonstrations needs some: set prompts.demonstrations and "
            "prompts.k >= 1, or loss.distill.context = solution"
        )
