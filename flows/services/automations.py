"""What Prefect does by itself about this project's runs: automations, made by `icpo up`.

One that a person has changed in the UI is left alone; so is whether it is switched on. Without a
notification block an alarm is an entry in the event feed and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import (
    AutomationCore,
    ChangeFlowRunState,
    DoNothing,
    EventTrigger,
    Posture,
    RunDeployment,
    SendNotification,
)
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from icpo.flows.prefect_compat.settings import HEARTBEATS_MISSED, RUNS
from icpo.flows.services.alarms import COLLAPSED, FAILING, FELL, PUBLISHED, UNLIKE
from icpo_core.common.files import canonical_digest

FLOWS = ["icpo", "icpo-stage", "icpo-eval"]
HEARTBEAT = int(RUNS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
NIGHTLY = "icpo-eval/nightly"
"""The deployment that evaluates."""
MADE = "icpo-made:"
"""Tag that holds the digest of what `icpo up` made, so that a person's change is seen."""

TOLD = "Its message is sent to the notification block."
UNTOLD = "Nobody is told: it stands in the event feed, and `icpo up --notify TYPE/NAME` sends it."

BODY = """{{ automation.name }}

{{ event.resource.name }}: {{ event.event }}
{{ event.payload.message }}
{% if flow_run %}Flow run {{ flow_run.name }}: {{ flow_run.state.name }}
{{ flow_run.state.message }}
{{ flow_run|ui_url }}{% endif %}
"""


def _of_runs(event: str, **more: Any) -> EventTrigger:
    """Trigger on an event of this project's flow runs, each by itself."""
    settings: dict[str, Any] = {
        "expect": {event},
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
        "for_each": {"prefect.resource.id"},
        "posture": Posture.Reactive,
        "threshold": 1,
        "within": timedelta(0),
    }
    return EventTrigger(**settings | more)


def _of_icpo(event: str) -> EventTrigger:
    """Trigger on an event that a run of this project raised itself."""
    return EventTrigger(
        expect={event},
        match={"prefect.resource.id": "icpo.run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def automations(block: UUID | None) -> list[AutomationCore]:
    """All of them; `block`: notification block that alarms go to."""

    def alarm(name: str, description: str, trigger: EventTrigger, *actions: Any) -> AutomationCore:
        tell = SendNotification(block_document_id=block, subject=name, body=BODY) if block else None
        return AutomationCore(
            name=name,
            description=f"{description} {TOLD if block else UNTOLD}",
            trigger=trigger,
            actions=[*actions, *([tell] if tell else [])] or [DoNothing()],
        )

    # Not of the subflow runs of iterations: for every event that a trigger listens to, the server
    # writes to its database, just when the next iteration is to be created.
    silent = _of_runs(
        "prefect.flow-run.*",
        after={"prefect.flow-run.heartbeat"},
        posture=Posture.Proactive,
        within=timedelta(seconds=HEARTBEATS_MISSED * HEARTBEAT),
    )
    gone = ChangeFlowRunState(
        name=None,
        state=StateType.CRASHED,
        force=False,
        message=f"No heartbeat for {HEARTBEATS_MISSED * HEARTBEAT} s: its process or its machine "
        "is gone. Nothing finished is lost: start the same run again and it goes on.",
    )
    return [
        alarm("ICPO: run failed", "A run ended in an error.", _of_runs("prefect.flow-run.Failed")),
        alarm(
            "ICPO: run crashed",
            "The process of a run ended in the middle of it.",
            _of_runs("prefect.flow-run.Crashed"),
        ),
        alarm(
            "ICPO: run late",
            "No worker took up a run that was due: is one running (`icpo up`)?",
            _of_runs("prefect.flow-run.Late"),
        ),
        alarm(
            "ICPO: no heartbeat",
            "A run has fallen silent without an end: it is marked as crashed.",
            silent,
            gone,
        ),
        alarm(
            "ICPO: reward collapsed",
            "The policy answers far worse than it did; flows/services/alarms.py says how far.",
            _of_icpo(COLLAPSED),
        ),
        alarm(
            "ICPO: verifier failing",
            "The verifier times out or fails on too many rollouts; services/alarms.py says when.",
            _of_icpo(FAILING),
        ),
        alarm(
            "ICPO: answers unlike golds",
            "Rewarded answers restate the problem, or are of another form than the gold answers: "
            "read some with `icpo show` before you believe the reward.",
            _of_icpo(UNLIKE),
        ),
        alarm(
            "ICPO: evaluation fell",
            "A checkpoint is worse than an earlier one by more than chance, in training or in a "
            "nightly evaluation.",
            _of_icpo(FELL),
        ),
    ]


def ensure(client: SyncPrefectClient, notify: str | None, say: Callable[[str], None]) -> None:
    """Make what is missing, bring up to date what nobody changed.

    notify: notification block as TYPE/NAME (`slack-webhook/team`).
    Raises ValueError if there is no such block.
    """
    block = _block(client, notify) if notify else None
    for wanted in automations(block):
        _settle(client, wanted, block is not None, say)


def ensure_evaluation(client: SyncPrefectClient, wanted: bool, say: Callable[[str], None]) -> None:
    """The automation that evaluates what is published; off until somebody wants it.

    The deployment that it starts must be there (`prefect deploy --all`).
    """
    deployment = client.read_deployment_by_name(NIGHTLY).id
    one = AutomationCore(
        name="ICPO: checkpoint evaluated",
        description="A checkpoint that stays is published: its run is evaluated as at night.",
        enabled=wanted,
        trigger=_of_icpo(PUBLISHED),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                job_variables=None,
                parameters={
                    "runs": "{{ event.payload.runs }}", "only": "{{ event.payload.name }}",
                },
            )
        ],
    )  # fmt: skip
    _settle(client, one, False, say, on=wanted)


def _settle(
    client: SyncPrefectClient,
    wanted: AutomationCore,
    tells: bool,
    say: Callable[[str], None],
    on: bool = False,
) -> None:
    """Make one that is missing, bring up to date what nobody changed. tells: it is to notify
    somebody; on: switch it on if it is off."""
    found = next(iter(client.read_automations_by_name(wanted.name)), None)
    made = wanted.model_copy(update={"tags": ["icpo", MADE + _digest(wanted)]})
    if found is None:
        client.create_automation(made)
    elif MADE + _digest(found) not in found.tags:
        say(f"Automation {wanted.name!r} was changed by hand and is left as it is")
    elif tells or _acts_alone(found):
        enabled = on or found.enabled
        client.update_automation(found.id, made.model_copy(update={"enabled": enabled}))


def _acts_alone(found: AutomationCore) -> bool:
    """Whether it tells nobody; one that does keeps doing so without --notify."""
    return not any(isinstance(action, SendNotification) for action in found.actions)


def _digest(automation: AutomationCore) -> str:
    facts = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    for name in ("after", "expect", "for_each"):  # sets: in any order
        facts["trigger"][name] = sorted(facts["trigger"].get(name, []))
    return canonical_digest(facts)[:16]


def _block(client: SyncPrefectClient, notify: str) -> UUID:
    kind, _, name = notify.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise ValueError(
            f"--notify {notify}: there is no such block; make one in the Prefect UI (Blocks), for "
            "example a Slack Webhook, and name it as TYPE/NAME: slack-webhook/team"
        ) from None
