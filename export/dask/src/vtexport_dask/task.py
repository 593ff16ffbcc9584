# SPDX-License-Identifier: MPL-2.0

"""What a worker does for one chunk: it runs ``vtexport chunk``, and ends it once nobody wants it.

The program's standard input is a pipe that this process holds. It ends with it, so that a worker
that is killed leaves nothing behind.
"""

import errno
import json
import os
import pickle
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distributed import Reschedule, Status, get_worker

from . import __version__

USAGE = 2
TRY_AGAIN = 75
UNFIT = 78
"""This installation can't: the worker isn't used for this plan again."""

LOOKS = 0.2
"""Seconds between two looks whether the task is still wanted."""

PASSES = {
    errno.EAGAIN,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.ESTALE,
}
"""Errors that say nothing about how a worker was set up."""


@dataclass(frozen=True)
class Job:
    """What a task is to do."""

    version: str
    """Of this package."""
    task: str
    index: int
    plan: str
    logs: str
    is_first_pass: bool
    work_root: str | None
    source_root: str | None
    """Where the folders above are, if the worker's variables don't say that it has them elsewhere."""
    topic: str
    """Of Dask's events: that it runs is said there."""

    def packed(self) -> bytes:
        """``pickle.loads`` of it runs it, which all machines have.

        A worker that can't unpack a function of Dask's leaves its scheduler, with all that it
        runs. This one says that it lacks the package.
        """
        return pickle.dumps(Call(json.dumps(asdict(self))))


@dataclass(frozen=True)
class Call:
    """Unpickled, it is what :func:`chunk` returns."""

    job: str

    def __reduce__(self) -> tuple[Any, ...]:
        return chunk, (self.job,)


class Refused(Exception):
    """No program was run, for this reason."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


def chunk(job: str) -> dict[str, Any]:
    """Encodes a chunk: the function that workers import and run. All versions have it."""
    worker = get_worker()
    try:
        code, text = run(job_of(job), worker)
    except Refused as refused:
        code, text = refused.code, refused.text
    return {"code": code, "text": text, "worker": worker.address}


def run(job: Job, worker: Any) -> tuple[int | None, str]:
    """The code of the program, to its end. ``None``: a signal ended it."""
    key = worker.get_current_task()
    try:
        child = spawn(job)
    except OSError as error:
        code = TRY_AGAIN if error.errno in PASSES else UNFIT
        why = f"{error.filename}: {error.strerror}"
        raise Refused(code, f"the worker can't run it, or write beside the plan: {why}") from error
    said = {"task": job.task, "key": key, "worker": worker.address}
    worker.log_event(job.topic, said)
    code = attend(child, worker, key)
    return (code, "") if code >= 0 else (None, f"signal {-code} ended vtexport")


def job_of(text: str) -> Job:
    fields = json.loads(text)
    if fields["version"] != __version__:
        versions = f"the worker has {__version__}, not {fields['version']}"
        raise Refused(UNFIT, f"vtexport-dask has to be the same everywhere: {versions}")
    return Job(**fields)


def spawn(job: Job) -> subprocess.Popen[bytes]:
    program = os.environ.get("VTEXPORT_PROGRAM") or shutil.which("vtexport")
    if program is None:
        raise Refused(UNFIT, "vtexport is not on the worker's PATH: set VTEXPORT_PROGRAM there")
    command = [
        program,
        "chunk",
        here(job, job.plan),
        "--index",
        str(job.index),
        "--json",
        "--attended",
    ]
    if job.is_first_pass:
        command.append("--first-pass")
    logs = Path(here(job, job.logs))
    root = os.environ.get("VTEXPORT_SOURCE_ROOT") or job.source_root
    environment = os.environ | ({"VTEXPORT_SOURCE_ROOT": root} if root else {})
    # Not its parents: a folder that isn't mounted must not be made.
    logs.mkdir(exist_ok=True)
    with (logs / f"{job.task}.out").open("wb") as out, (logs / f"{job.task}.err").open("wb") as err:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment
        )


def here(job: Job, path: str) -> str:
    """A path as this worker sees it."""
    root = os.environ.get("VTEXPORT_WORK_ROOT") or job.work_root
    if root is None and not Path(path).is_absolute():
        unset = "VTEXPORT_WORK_ROOT, which says from where, isn't set on the worker"
        raise Refused(USAGE, f"{path} is a relative path, and {unset}")
    return str(Path(root or "/", path))


def attend(child: subprocess.Popen[bytes], worker: Any, key: str) -> int:
    """Waits for the program. Its end wakes this, or the time for a look."""
    assert child.stdin is not None
    try:
        while True:
            try:
                return child.wait(LOOKS)
            except subprocess.TimeoutExpired:
                if not is_wanted(worker, key):
                    # A worker that is closing gives it back; else nobody hears it.
                    raise Reschedule from None
    finally:
        child.stdin.close()
        child.kill()
        child.wait()


def is_wanted(worker: Any, key: str) -> bool:
    """The state is another as soon as the client or the scheduler let go of the task. A worker
    whose scheduler gave it up, or is gone, closes."""
    task = worker.state.tasks.get(key)
    closes = worker.status in (Status.closing, Status.closed, Status.failed)
    return not closes and task is not None and task.state in ("executing", "long-running")
