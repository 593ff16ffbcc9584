# SPDX-License-Identifier: MPL-2.0

"""A real scheduler and real workers with TLS, and a program that does what a plan tells it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import trustme

BIN = Path(sys.executable).parent
COMMAND = str(BIN / "vtexport-dask")
HASTY = ["-c", "from vtexport_dask import bridge, cli; bridge.PATIENCE = 2; cli.main()"]
CONFIGURATION = Path(__file__).parents[1] / "vtexport.yaml"
FAKE = Path(__file__).parent / "fake_vtexport.py"
T = TypeVar("T")


def until(condition: Callable[[], T | None], seconds: float = 25) -> T:
    """Looks until it is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def died(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state in "ZX"
    return True


class Plan:
    """What the program is to do for each chunk, and what it did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "plan.json"
        self.logs = folder / "logs"

    def write(self, chunks: dict[int, str]) -> None:
        self.path.write_text(json.dumps(chunks))

    def begun(self, index: int) -> list[int]:
        """Processes, the first one first."""
        seen = [path for path in self.folder.glob(f"begun-{index}-*") if path.stat().st_size]
        return [
            int(path.read_text()) for path in sorted(seen, key=lambda path: path.stat().st_mtime)
        ]

    def first(self, index: int, number: int = 0) -> int:
        return until(lambda: self.begun(index)[number : number + 1])[0]

    def release(self, index: int) -> None:
        (self.folder / f"release-{index}").touch()


class Run:
    """The command under test."""

    started: ClassVar[list["Run"]] = []

    def __init__(self, plan: Plan, arguments: list[str], env: dict[str, str]) -> None:
        self.started.append(self)
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*arguments, str(plan.path), str(plan.logs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
        )
        threading.Thread(target=self.hear, daemon=True).start()

    def hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def ask(self, **line: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def submit(self, task: str, index: int, priority: int = 0) -> None:
        self.ask(submit={"task": task, "index": index, "priority": priority})

    def states(self, state: str) -> dict[str, dict[str, Any]]:
        return {line["task"]: line for line in list(self.said) if line.get("state") == state}

    def ended(self, task: str, seconds: float = 25) -> dict[str, Any]:
        return until(lambda: self.states("ended").get(task), seconds)

    def running(self, task: str) -> dict[str, Any]:
        return until(lambda: self.states("running").get(task))

    def told(self, words: str) -> str:
        texts = (line["say"] for line in list(self.said) if "say" in line)
        return next((text for text in texts if words in text), "")

    def finish(self, seconds: float = 5) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(seconds)

    def failed(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        return self.process.wait(25), self.process.stderr.read()


class Cluster:
    """A scheduler with its workers."""

    def __init__(self, folder: Path, certificates: Path, **env: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.file = folder / "scheduler.json"
        tls = {"CA_FILE": certificates / "ca.pem"}
        for role in ("SCHEDULER", "WORKER", "CLIENT"):
            tls[f"{role}__CERT"] = certificates / "all.pem"
        self.plain = {
            name: value for name, value in os.environ.items() if not name.startswith("DASK_")
        }
        self.plain["PATH"] = f"{folder}:{BIN}:{self.plain['PATH']}"
        names = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(path) for name, path in tls.items()}
        self.env = self.plain | names | {"DASK_CONFIG": str(CONFIGURATION)} | env
        program = folder / "vtexport"
        shutil.copy(FAKE, program)
        program.chmod(0o755)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler(0)
        seen = until(lambda: self.file.exists() and self.file.read_text())
        self.address: str = json.loads(str(seen))["address"]

    def start(self, arguments: list[str], **env: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        command = [str(BIN / "dask"), *arguments, "--no-dashboard"]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.env | env, stdout=log, stderr=log
        )
        log.close()
        self.processes.append(process)
        return process

    def start_scheduler(self, port: int) -> subprocess.Popen[bytes]:
        where = ["--protocol", "tls", "--host", "127.0.0.1", "--port", str(port)]
        return self.start(["scheduler", *where, "--scheduler-file", str(self.file)])

    def worker(self, tag: str, count: int = 1, **env: str) -> subprocess.Popen[bytes]:
        places = ["--nthreads", str(count), "--resources", f"{tag}={count}"]
        where = ["--no-nanny", "--host", "127.0.0.1", "--local-directory", str(self.folder)]
        return self.start(["worker", self.address, *where, *places], **env)

    def run(
        self, plan: Plan, tag: str, *more: str, program: Sequence[str] = (COMMAND,), **env: str
    ) -> Run:
        arguments = [*program, "run", "--scheduler", self.address, "--tag", tag, *more]
        return Run(plan, arguments, self.env | env)

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.processes:
            process.wait()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "all.pem"))
    return folder


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Cluster]:
    """Tests share it, each with workers of its own tag; TWO is offered by a worker twice."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), certificates)
    cluster.worker("TWO", 2)
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """Nothing of a test goes on after it."""
    yield
    for run in Run.started:
        run.process.kill()
        run.process.wait()
    Run.started.clear()


@pytest.fixture
def own(tmp_path: Path, certificates: Path) -> Iterator[Cluster]:
    """One that a test breaks."""
    cluster = Cluster(tmp_path / "own", certificates, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="1s")
    yield cluster
    cluster.stop()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "film.export")
