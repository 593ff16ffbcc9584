# SPDX-License-Identifier: MPL-2.0

"""Tasks that are asked for by lines, on the workers that offer a tag.

No more of them are given to Dask than there are places: what comes later can still go first, new
workers have work at once, and a worker that dies takes nothing with it but what it ran. Dask
chooses the worker, and runs a task again elsewhere if that one is lost.

Everything is done by one thread. Wakes it: a line, an event or an end that the scheduler reports,
and the clock each second.
"""

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import sys
import threading
import time
import uuid
import warnings
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, NamedTuple

from distributed import Client, KilledWorker
from distributed.comm import CommClosedError

from . import __version__
from .connection import connect
from .task import TRY_AGAIN, UNFIT, USAGE, Job, Refused

FIRST = 30.0
"""Seconds for the first connection."""

AGAIN = 120.0
"""Seconds for another one when the scheduler is lost."""

TRY = 10.0
"""Seconds for one try of that."""

LOOKS = 1.0
"""Seconds between two looks at workers and the connection."""

REST = 60.0
"""Seconds that a worker isn't preferred after a task failed there."""

PATIENCE = 10.0
"""Seconds that tasks wait for a worker that can, before a person is told or they are given up."""


class Options(NamedTuple):
    scheduler: str
    tag: str
    plan: str
    logs: str
    is_first_pass: bool
    work_root: str | None
    source_root: str | None


@dataclass(eq=False)
class Task:
    """Asked for, and not ended."""

    name: str
    index: int
    priority: int
    # What follows is of one submission. After a loss there is another.
    key: str = ""
    workers: frozenset[str] = frozenset()
    """Only these may run it, or all that offer the tag if there are none."""
    follower: asyncio.Task[None] | None = None
    """Waits for its end. ``None``: it isn't submitted."""

    def withdraw(self) -> None:
        """Dask drops it, and the worker that runs it ends it."""
        if self.follower is not None:
            self.follower.cancel()
        self.follower = None


class Bridge:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        """What the caller asks for. ``None``: all is to end."""
        self.tasks: dict[str, Task] = {}
        self.places: dict[str, int] = {}
        """Of each worker that offers the tag: how many tasks it runs at a time."""
        self.unfit: dict[str, str] = {}
        """Workers whose installation can't, and why."""
        self.resting: dict[str, float] = {}
        """Workers where a task failed that may go well elsewhere, and until when others are preferred: one
        without space would fail one task after another."""
        self.scheduler = ""
        """Its identity: another one knows nothing of what was submitted."""
        self.is_lost = False
        self.waits_since: float | None = None
        self.is_told = False
        self.news = asyncio.Event()

    async def listen(self) -> None:
        """Until all is to end. Lines wake it."""
        while (line := await self.lines.get()) is not None:
            try:
                self.take(json.loads(line))
            except ValueError:
                text = f"a line that asks for nothing: {line!r}"
                raise Refused(USAGE, text) from None
            self.news.set()

    def take(self, line: Any) -> None:
        match line:
            case {"submit": {"task": str(name), "index": int(index), "priority": int(priority)}}:
                self.tasks[name] = Task(name, index, priority)
            case {"cancel": str(name)}:
                if task := self.tasks.pop(name, None):
                    task.withdraw()
            case _:
                raise ValueError

    async def serve(self) -> None:
        """Never ends by itself, but for a scheduler that isn't found, or no more."""
        client = await connect(self.options.scheduler, FIRST)
        while True:
            try:
                await self.work(client)
            finally:
                for task in self.tasks.values():
                    task.withdraw()
                await client.close()
            self.say("the connection to the scheduler is lost: trying again")
            for task in self.tasks.values():
                self.waits(task)
            client = await self.connect_again()
            self.say("the scheduler is there again: what isn't done is submitted again")

    async def connect_again(self) -> Client:
        deadline = time.monotonic() + AGAIN
        while True:
            try:
                return await connect(self.options.scheduler, TRY)
            except Refused:
                if time.monotonic() > deadline:
                    text = f"no scheduler answers at {self.options.scheduler} after {AGAIN:.0f} s"
                    raise Refused(TRY_AGAIN, text) from None
                await asyncio.sleep(LOOKS)

    async def work(self, client: Client) -> None:
        """Until the connection is lost."""
        self.scheduler, self.is_lost, self.places, self.waits_since = "", False, {}, None
        # The scheduler forgets events with the name of a client some time after that is gone.
        client.subscribe_topic(client.id, self.heard)
        watch = asyncio.create_task(self.watch(client))
        try:
            while client.status == "running" and not (self.is_lost or watch.done()):
                self.place(client)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.news.wait(), LOOKS)
                self.news.clear()
        finally:
            watch.cancel()

    async def watch(self, client: Client) -> None:
        """Looks who is there. Wakes it: the scheduler's answer, then the clock."""
        while True:
            # (A connection that breaks is seen by its status.)
            with contextlib.suppress(OSError):
                seen = await client.scheduler.identity()
                self.is_lost = self.scheduler not in ("", seen["id"])
                self.scheduler = seen["id"]
                workers = seen["workers"].items()
                offers = {name: places(worker, self.options.tag) for name, worker in workers}
                self.places = {name: count for name, count in offers.items() if count is not None}
                self.news.set()
            await asyncio.sleep(LOOKS)

    def place(self, client: Client) -> None:
        """Submits as many tasks as workers have places, the most urgent ones first."""
        for task in self.tasks.values():
            # Dask would wait for one of these workers, and they are gone.
            if task.workers and task.workers.isdisjoint(self.places):
                task.withdraw()
                self.waits(task)
        waiting = [task for task in self.tasks.values() if task.follower is None]
        waiting.sort(key=lambda task: -task.priority)
        fit = self.fit()
        free = sum(fit.values()) - (len(self.tasks) - len(waiting))
        for task in waiting[: max(free, 0)]:
            self.submit(
                client, task, frozenset(fit) if len(fit) < len(self.places) else frozenset()
            )
        self.wait([] if fit else waiting)

    def fit(self) -> dict[str, int]:
        """Places of the workers that may have tasks: of those that rest if there are no others."""
        now = time.monotonic()
        able = {worker: count for worker, count in self.places.items() if worker not in self.unfit}
        awake = {worker: able[worker] for worker in able if self.resting.get(worker, now) <= now}
        return awake or able

    def submit(self, client: Client, task: Task, workers: frozenset[str]) -> None:
        options = self.options
        job = Job(
            version=__version__,
            task=task.name,
            index=task.index,
            plan=options.plan,
            logs=options.logs,
            is_first_pass=options.is_first_pass,
            work_root=options.work_root,
            source_root=options.source_root,
            topic=client.id,
        )
        # Dask knows by the first word how long such tasks take. No two submissions share a key:
        # one that is being ended isn't to be taken for its successor.
        task.key = f"vtexport-{task.name}-{uuid.uuid4().hex}"
        task.workers = workers
        future = client.submit(
            pickle.loads,
            job.packed(),
            key=task.key,
            workers=sorted(workers) or None,
            resources={options.tag: 1},
            retries=0,
            priority=task.priority,
            pure=False,
        )
        task.follower = asyncio.create_task(self.follow(task, future))

    async def follow(self, task: Task, future: Any) -> None:
        """Waits for a task's end. The scheduler wakes it, or the connection's end."""
        try:
            ended = await future
        except (CancelledError, CommClosedError):
            # Not by this: the connection is lost, or somebody else emptied the scheduler.
            task.follower = None
            self.waits(task)
        except KilledWorker as killed:
            text = "the workers that ran it were lost, as often as Dask's allowed-failures says"
            self.end(task, None, killed.last_worker.address, text)
        except Exception as error:
            self.end(task, *failure(error))
        else:
            self.ended(task, ended)
        finally:
            future.release()
            self.news.set()

    def ended(self, task: Task, ended: dict[str, Any]) -> None:
        if ended["code"] == UNFIT:
            self.unfit[ended["worker"]] = ended["text"]
            task.follower = None
            self.waits(task)
        else:
            if ended["code"] != 0:
                self.resting[ended["worker"]] = time.monotonic() + REST
            self.end(task, ended["code"], ended["worker"], ended["text"])

    def heard(self, event: tuple[float, Any]) -> None:
        """A worker begins a task."""
        match event[1]:
            case {"task": name, "key": key, "worker": worker}:
                task = self.tasks.get(name)
                if task is not None and task.key == key:
                    self.tell({"task": name, "state": "running", "worker": worker})

    def waits(self, task: Task) -> None:
        """It is submitted again."""
        if task.name in self.tasks:
            self.tell({"task": task.name, "state": "waiting"})

    def end(self, task: Task, code: int | None, worker: str, text: str) -> None:
        del self.tasks[task.name]
        ended = {"state": "ended", "code": code, "worker": worker, "text": text}
        self.tell({"task": task.name, **ended})

    def wait(self, tasks: list[Task]) -> None:
        """No worker can: others may be about to come. Tasks end if all that are there are unfit, and
        wait on if nobody is there."""
        now = time.monotonic()
        if not tasks:
            self.waits_since, self.is_told = None, False
        elif self.waits_since is None:
            self.waits_since = now
        elif now - self.waits_since < PATIENCE:
            pass
        elif self.places:
            worker = next(iter(self.places))
            for task in tasks:
                self.end(task, UNFIT, worker, self.unfit[worker])
        elif not self.is_told:
            self.is_told = True
            tag = self.options.tag
            offer = f'dask worker … --resources "{tag}=1"'
            self.say(f"no worker offers {tag}: tasks wait for one that is started as {offer}")

    def say(self, text: str) -> None:
        self.tell({"say": text})

    def tell(self, said: dict[str, Any]) -> None:
        try:
            print(json.dumps(said), flush=True)
        except OSError:
            # The caller is gone.
            self.lines.put_nowait(None)


def places(worker: dict[str, Any], tag: str) -> int | None:
    """How many tasks a worker runs at a time, if it offers the tag. One that Dask has paused begins
    none."""
    offered = int(worker["resources"].get(tag, 0))
    if offered < 1:
        return None
    return min(offered, worker["nthreads"]) if worker["status"] == "running" else 0


def failure(error: Exception) -> tuple[int | None, str, str]:
    """Of a task that was not run: Dask says why, but not where."""
    why = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if isinstance(error, ImportError):
        text = f"vtexport-dask {__version__} has to be installed on all workers that offer the tag"
        return UNFIT, "", f"{text}: {why}"
    return None, "", f"Dask could not run it: {why}"


def run(options: Options) -> None:
    """The whole command. Threads of Dask don't hold up its end."""
    # What Dask logs is no business of whoever reads standard error.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    asyncio.run(main(options))


async def main(options: Options) -> None:
    """Wakes it: the end of the input, SIGTERM, or a failure."""
    bridge = Bridge(options)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, bridge.lines.put_nowait, None)
    threading.Thread(target=read, args=(loop, bridge.lines), daemon=True).start()
    listens, serves = asyncio.create_task(bridge.listen()), asyncio.create_task(bridge.serve())
    done, _ = await asyncio.wait({listens, serves}, return_when=asyncio.FIRST_COMPLETED)
    serves.cancel()
    # Closing the connection takes back all tasks, and so does the end of this process.
    await asyncio.wait({serves}, timeout=2)
    code = 0
    try:
        for task in done:
            task.result()
    except Refused as refused:
        print(f"vtexport-dask: {refused.text}", file=sys.stderr, flush=True)
        code = refused.code
    os._exit(code)


def read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[bytes | None]) -> None:
    """Lines for the loop, from a thread. Who writes them wakes it."""
    with open(0, "rb", buffering=0, closefd=False) as given:
        for line in given:
            loop.call_soon_threadsafe(lines.put_nowait, line)
    loop.call_soon_threadsafe(lines.put_nowait, None)
