"""A part of the rollouts that another process judges, on any machine that has the run's folder.

Its verdicts and the reply beside them lie in the folder of the attempt's logs until the run takes
them: a process that was given up may yet write, and what it writes is nowhere looked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from icpo_core.common import plugins
from icpo_core.common.files import read_json, sha256_file, write_json
from icpo_core.common.lock import RunLock, holder
from icpo_core.config import VerifySection
from icpo_core.method import verdicts
from icpo_core.store import tables
from icpo_core.store.tables import Written
from icpo_core.workers.jobs import Judge, Judged


def job(
    verify: VerifySection,
    sources: Mapping[str, str],
    prompts: Path,
    rollouts: Path,
    content: str,
    out: Path,
    fingerprint: str,
) -> Judge:
    """The job of one part, its paths whole, and a folder for `out`. `content`: digest of the
    rollouts."""
    out.parent.mkdir(parents=True, exist_ok=True)
    asked = tables.content_digest("prompts", tables.read("prompts", prompts))
    return Judge(
        prompts=prompts.resolve(),
        rollouts=rollouts.resolve(),
        contents=(asked, content),
        verify=verify,
        sources=dict(sources),
        out=out.resolve(),
        fingerprint=fingerprint,
    )


def judge(job: Judge) -> Judged:
    """Judge a part; the reply is written last.

    Raises ValueError, in one line, if this machine sees other files than the run does, if too many
    verdicts failed, or if another process is at this part.
    """
    if not job.out.parent.is_dir():
        raise ValueError(
            f"{job.out.parent}: is not on this machine; verify.pool needs the run's folder at the "
            "same path on a file system that both share"
        )
    _require_sources(job)
    with RunLock(_lock(job)):
        prompts, rollouts = _read("prompts", job.prompts), _read("rollout", job.rollouts)
        if (prompts[1], rollouts[1]) != job.contents:
            raise ValueError(f"{job.rollouts}: this machine sees other rows than the run does")
        judges = verdicts.judging(job.verify, job.sources)
        try:
            table = verdicts.verdicts(prompts[0], rollouts[0], judges)
        finally:
            judges.close()
        verdicts.require_few_failures(table, job.verify.max_failure_rate, str(job.rollouts))
        found = tables.write("verdicts", table, job.out, job.fingerprint)
        assert found.rows is not None
        assert found.content is not None
        reply = Judged(rows=found.rows, content=found.content)
        write_json(_reply(job), reply.wire(), durable=False)
    return reply


def clear(job: Judge) -> None:
    """Before the part is given to a process: forget the one before."""
    for rest in (_reply(job), _lock(job)):
        rest.unlink(missing_ok=True)


def replied(job: Judge) -> bool:
    """Whether the part is judged."""
    return _reply(job).is_file()


def left(job: Judge) -> bool:
    """Whether a process began with the part and is gone, however it went."""
    return _lock(job).is_file() and holder(_lock(job)) is None


def take(job: Judge, file: Path) -> Written | None:
    """Move what was judged to where it belongs; None if it is not what was asked for."""
    try:
        reply = Judged.model_validate(read_json(_reply(job)))
        table = tables.read("verdicts", job.out)
    except ValueError:
        return None
    same = tables.content_digest("verdicts", table) == reply.content
    if not same or tables.part_fingerprint(job.out) != job.fingerprint:
        return None
    os.replace(job.out, file)
    clear(job)
    return Written(sha256_file(file), reply.rows, reply.content)


def _require_sources(job: Judge) -> None:
    """One's own verifiers, too, lie where the run has them."""
    named = {f"verify.rewards.{one.name}": one.verifier for one in job.verify.rewards}
    named["verify.verifier"] = job.verify.verifier
    for key, digest in job.sources.items():
        if plugins.source_digest(named[key]) != digest:
            raise ValueError(f"{key}: {named[key]} is another one on this machine")


def _read(name: str, path: Path) -> tuple[pa.Table, str]:
    table = tables.read(name, path)
    return table, tables.content_digest(name, table)


def _reply(job: Judge) -> Path:
    return job.out.with_suffix(".json")


def _lock(job: Judge) -> Path:
    return job.out.with_suffix(".lock")
