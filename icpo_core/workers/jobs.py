"""Jobs between a run and its workers: one frozen model a job and a reply, shared by both ends.

On the wire a job is one line of JSON, its kind (the class's name) beside its fields. `Job[R]` is
answered by an `R`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from icpo_core.config import (
    EngineSection,
    LoraSection,
    LossSection,
    UpdateSection,
    VerifySection,
)


class Message(BaseModel):
    """What is said between a run and a worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def wire(self) -> dict[str, Any]:
        """As plain JSON values; NaN stays NaN."""
        return self.model_dump(mode="json")


R = TypeVar("R", bound=Message)


class Job(Message, Generic[R]):
    """A job, and which reply it is answered by."""

    reply: ClassVar[type[Message]]

    @property
    def kind(self) -> str:
        return type(self).__name__


class Done(Message):
    """A reply that says nothing more."""


class Progress(Message):
    """How far a job is."""

    done: int
    all: int


# --- what workers are started with ------------------------------------------------------------


class EngineSettings(Message):
    """What an engine's process is started with."""

    kind: str = "vllm"
    """As `rollout.engine.kind`, resolved."""
    model: Path
    """Folder of the weights to start with; of a server, one with the same tokenizer."""
    engine: EngineSection
    seed: int
    sleeps: bool = False
    """Whether it will be told to sleep while the trainer has its devices."""
    address: str = ""
    """Of a server."""
    deterministic: bool = False
    """As `rollout.deterministic`."""
    lora: LoraSection | None = None
    """Of the adapters that it will load beside the weights it starts with; None: it loads whole
    weights."""


class EngineReady(Message):
    """An engine's first words."""

    policy_version: str
    """Digest of the weights that it holds; of a server nobody knows, so empty."""


class Connect(Job[Done]):
    """Speak for the server at `address`, at the socket of a worker's parent."""

    reply = Done
    address: str
    socket: Path


class TrainerSettings(Message):
    """What each rank of a trainer is started with."""

    model: Path
    loss: LossSection
    update: UpdateSection
    temperature: float
    updates_behind: int
    """As `RolloutSection.updates_behind`."""
    rendezvous: Path | None = None
    """File through which the ranks of one machine find each other. None: a rank that is alone, or
    ranks on several machines, which find each other by an address."""


class TrainerReady(Message):
    """A trainer's first words."""

    state_id: str
    ranks: int


# --- jobs of an engine ------------------------------------------------------------------------


class Loaded(Message):
    """An engine holds the weights and has proven it."""

    reload_seconds: float
    proof_gap: float | None
    """Largest gap to the trainer's logprobs, nats; None: the weights came without a proof."""
    proof: dict[str, float] = {}
    """What else is known of it: facts of the manifest, by name."""
    start_seconds: float = 0.0
    """Waited for an engine that was still starting."""


class Load(Job[Loaded]):
    """Hold these weights and prove it."""

    reply = Loaded
    model: Path
    policy_version: str
    proof: Path | None
    """Sequences with the trainer's logprobs of them."""
    max_logprob_gap: float | None


class Sleep(Job[Done]):
    """Give the device's memory back until the next `Load`."""

    reply = Done


class Sampled(Message):
    """A part of samples is written."""

    rows: int
    tokens: int
    sampling_seconds: float
    sha256: str
    """Of the part, and of its rows without volatile columns."""
    content: str
    engine: int = 0
    """Number of the engine that did it."""


class Rollout(Job[Sampled]):
    """Sample one shard of an iteration's prompts and write its part of table `rollout`."""

    reply = Sampled
    prompts: Path
    shard: int
    shards: int
    on_policy: int
    expert: int
    expert_source: Literal["in_context", "traces"]
    groups: list[int] | None = None
    """Rows of `prompts` that the shards are of. None: all."""
    steered: list[int] | None = None
    """Those among them that get expert rollouts. None: all."""
    attempt: int = 0
    """Which expert prompt of a row: 0, or a further try from 1."""
    first: int = 0
    """`sample_index` of a group's first rollout."""
    seeding: Literal["rollout", "part"] = "rollout"
    """Whether each rollout has a seed, or the whole part has one."""
    round: int | None = None
    """For the rows, where an iteration is sampled in rounds."""
    temperature: float
    max_tokens: int
    partial_tokens: int = 0
    """Tokens of a response in this iteration, if not all of it; the rest is left unfinished."""
    begun: list[Path] = []
    """Parts of table `unfinished` that the iteration before left."""
    seed: int
    iteration: int
    policy: int = 0
    """Updates that made the policy, for the rows of a partial rollout."""
    policy_version: str
    out: Path
    fingerprint: str


class Sample(Job[Sampled]):
    """Sample questions and write a part of table `generations`."""

    reply = Sampled
    questions: Path
    keys: list[tuple[int, int]]
    """Row of `questions` and number of the sample."""
    temperature: float
    top_p: float
    top_k: int = 0
    """0: all tokens."""
    max_tokens: int
    seed: int
    policy_version: str
    out: Path
    fingerprint: str


class Scored(Message):
    """Logprobs are written."""

    rows: int


class Score(Job[Scored]):
    """Logprobs at temperature 1 of all tokens but the first of each row of a table `probe`."""

    reply = Scored
    sequences: Path
    policy_version: str
    out: Path


# --- jobs of a trainer ------------------------------------------------------------------------


class Replay(Message):
    """A stored batch on the way to a state."""

    iteration: int
    batch: list[Path]
    """Parts of table `batch`."""
    teacher: list[Path] = []
    """Parts of table `teacher`, where it was learned from one."""
    tuning: Path | None = None
    """Rows of a step of fine-tuning after it, where it may have one."""


class Restore(Message):
    """How a trainer comes to a state: the nearest saved one, and the batches since."""

    folder: Path | None
    """None: from the base model on."""
    replay: list[Replay]


class Updated(Message):
    """Optimizer steps are taken, and new weights are written."""

    metrics: dict[str, float]
    policy_version: str
    weights: dict[str, str] = {}
    """sha256 of each file of the new weights."""
    replayed: list[int]
    timing: dict[str, float]
    work: dict[str, Any] | None = None
    layout: str = ""
    """How rows stood in micro-batches, and why not as they were to, if so."""
    layout_note: str = ""
    waits: dict[str, float] = {}
    """Seconds waited before the job could begin, by what for."""


class Update(Job[Updated]):
    """Optimizer steps on one stored batch from a state, then new weights and their proof."""

    reply = Updated
    iteration: int
    batch: list[Path]
    """Parts of table `batch`."""
    teacher: list[Path] = []
    tuning: Path | None = None
    """Both as in `Replay`."""
    parent: str
    """State to start from."""
    restore: Restore
    state_id: str
    """Name of the state that comes out."""
    policy_source: str | None = None
    """sha256 that the source of one's own `loss.policy` must have."""
    out: Path
    expert_tokens: bool = False
    """Write what the bare prompt gave the tokens of expert rollouts, too."""


class Saved(Done):
    """A state is written."""

    waits: dict[str, float] = {}


class Save(Job[Saved]):
    """Save weights and optimizer of a state."""

    reply = Saved
    out: Path
    state_id: str
    restore: Restore


class Taught(Message):
    """A part of table `teacher` is written."""

    rows: int
    sha256: str
    content: str
    replayed: list[int]
    waits: dict[str, float] = {}


class Teach(Job[Taught]):
    """What the teacher of self-distillation says of the bare rollouts of a part."""

    reply = Taught
    rollouts: Path
    lessons: Path
    """Table `lessons`: the prompts that it is shown. Rows of other problems are left out."""
    top_k: int
    parent: str | None
    """State whose weights teach; None: the base model."""
    restore: Restore
    out: Path
    fingerprint: str


ENGINE_JOBS: tuple[type[Job[Any]], ...] = (Load, Sleep, Rollout, Sample, Score)
SERVER_JOBS: tuple[type[Job[Any]], ...] = (Connect,)
TRAINER_JOBS: tuple[type[Job[Any]], ...] = (Update, Save, Teach)
JOBS: dict[str, type[Job[Any]]] = {
    job.__name__: job for job in ENGINE_JOBS + SERVER_JOBS + TRAINER_JOBS
}


# --- a job of whoever judges elsewhere --------------------------------------------------------


class Judged(Message):
    """Verdicts on a part of the rollouts are written."""

    rows: int
    content: str
    """Digest of the rows without volatile columns."""


class Judge(Job[Judged]):
    """Judge a part of the rollouts. Its reply lies beside `out`, written last."""

    reply = Judged
    prompts: Path
    rollouts: Path
    contents: tuple[str, str]
    """Of the rows of both without volatile columns."""
    verify: VerifySection
    sources: dict[str, str]
    """sha256 of one's own verifiers, by the key that names each."""
    out: Path
    fingerprint: str
