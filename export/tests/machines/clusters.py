# SPDX-License-Identifier: MPL-2.0

"""Schedulers, and machines in namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[3]
PROGRAM = Path(os.environ.get("VTEXPORT", ROOT / "target/debug/vtexport"))
CONFIGURATION = ROOT / "export/dask/vtexport.yaml"

CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/%n.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/%n.log
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/%n
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={munge},cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmdTimeout={timeout}
RequeueExit=75
KillWait=2
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for it in sockets:
        it.bind(("127.0.0.1", 0))
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


def code_blocks(words: str) -> list[str]:
    """What docs/machines.md has between fences with these words in it."""
    text = (ROOT / "docs/machines.md").read_text()
    blocks = [block.split("\n", 1)[1] for block in text.split("```")[1::2]]
    found = [block for block in blocks if words in block]
    assert found, words
    return found


class Host:
    """A program and all that it starts, in a namespace of their own: they end together, as where a machine's power fails."""

    def __init__(self, command: list[str | Path], environment: dict[str, str], network: bool = False) -> None:
        """`network`: it has none, but what it is given."""
        own = ["--pid", "--fork", "--kill-child", "--mount-proc", *(["--net"] if network else [])]
        self.process = subprocess.Popen(
            ["unshare", *own, *command],
            env=os.environ | environment,
            start_new_session=True,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def has(self, words: str) -> bool:
        """A process with these words runs there."""
        return any(words in " ".join(command) for _, command in self._processes())

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        inside = os.readlink(f"/proc/{self.process.pid}/ns/pid_for_children")
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(directory / "ns/pid") == inside:
                    command = (directory / "cmdline").read_bytes().decode(errors="replace")
                    yield int(directory.name), command.split("\0")
            except OSError:
                continue

    def _signal(self, number: signal.Signals) -> None:
        for pid, _ in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Network:
    """A switch, and hosts at it, each with a cable of its own."""

    def __init__(self) -> None:
        # (Names of devices are short.)
        self.switch = f"vt{os.getpid()}"
        self.subnet = f"10.77.{os.getpid() % 250}"
        self.address = f"{self.subnet}.1"
        self.cables: list[str] = []

    def __enter__(self) -> Self:
        self.ip("link", "add", self.switch, "type", "bridge")
        self.ip("address", "add", f"{self.address}/24", "dev", self.switch)
        self.ip("link", "set", self.switch, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for device in [*self.cables, self.switch]:
            # (A cable is gone with its host.)
            subprocess.run(["ip", "link", "delete", device], check=False, capture_output=True)

    @staticmethod
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def join(self, host: Host) -> str:
        """Puts a host at the switch, which waits for that. The cable's end here."""
        process = Path("/proc") / str(host.process.pid)
        while (process / "ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.01)
        number = len(self.cables) + 1
        cable, end = f"{self.switch}-{number}", "eth0"
        self.cables.append(cable)
        namespace = str(host.process.pid)
        self.ip("link", "add", cable, "master", self.switch, "type", "veth", "peer", end, "netns", namespace)
        self.ip("link", "set", cable, "up")
        inside = ["nsenter", "--net", "--target", namespace, "ip"]
        for command in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.subnet}.{number + 1}/24", "dev", end],
            ["link", "set", end, "up"],
        ):
            subprocess.run([*inside, *command], check=True)
        return cable


class Slurm:
    """A controller and machines of two cores."""

    nodes = ("node1", "node2", "node3")

    def __init__(self, at: Path, timeout: int = 6) -> None:
        (at / "state").mkdir(parents=True)
        self.at, self.conf, self.munge = at, at / "slurm.conf", at / "munge/socket"
        host = socket.gethostname()
        ports = free_ports(len(self.nodes) + 1)
        text = CONF.format(host=host, ports=ports, at=at, munge=self.munge, timeout=timeout)
        for node, port in zip(self.nodes, ports[1:], strict=True):
            text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2\n"
        text += "PartitionName=all Nodes=ALL Default=YES State=UP\n"
        self.conf.write_text(text)

    def __enter__(self) -> Self:
        self.begin_munge()
        self.begin_controller(clean=True)
        self.hosts = {node: self.begin_node(node) for node in self.nodes}
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.kill()
        self.kill(self.at / "slurmctld.pid")
        self.kill(self.at / "munge/pid")

    def begin_munge(self) -> None:
        at = self.at / "munge"
        at.mkdir()
        (at / "key").write_bytes(os.urandom(1024))
        (at / "key").chmod(0o400)
        files = ["key-file", "pid-file", "seed-file", "log-file", "socket"]
        said = [f"--{it}={at / it.removesuffix('-file')}" for it in files]
        # (As root, and in a directory that others can't look into: it warns of both.)
        subprocess.run(["munged", "--force", *said], check=True, stderr=subprocess.DEVNULL)

    def begin_controller(self, clean: bool = False) -> None:
        subprocess.run(
            ["slurmctld", *(["-c"] if clean else [])],
            env=os.environ | {"SLURM_CONF": str(self.conf)},
            check=True,
        )

    def kill_controller(self) -> None:
        self.kill(self.at / "slurmctld.pid")

    def begin_node(self, node: str) -> Host:
        return Host(["slurmd", "-D", "-N", node], {"SLURM_CONF": str(self.conf)})

    def idle(self) -> int:
        said = subprocess.run(
            ["sinfo", "--noheader", "--states=idle", "--format=%D"],
            check=False,
            env=os.environ | {"SLURM_CONF": str(self.conf)},
            capture_output=True,
            text=True,
        )
        return sum(int(it) for it in said.stdout.split())

    @staticmethod
    def kill(pid_file: Path) -> None:
        try:
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass


class Dask:
    """A scheduler with TLS; workers come as they are begun."""

    def __init__(self, at: Path, host: str = "127.0.0.1") -> None:
        self.at, self.host = at, host
        at.mkdir()
        (port,) = free_ports(1)
        self.address = f"tls://{host}:{port}"
        self.engine = ["--engine", "dask", "--scheduler", self.address]
        self.environment = self.certificates(at) | {
            "DASK_CONFIG": str(CONFIGURATION),
            "VTEXPORT_PROGRAM": str(PROGRAM),
            # A worker that stands still is given up as soon as Dask can: it looks every five seconds at most.
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
            "DASK_DISTRIBUTED__WORKER__USE_FILE_LOCKING": "False",
        }
        self.workers: list[Host] = []

    @staticmethod
    def certificates(at: Path) -> dict[str, str]:
        """An authority and one certificate of it for all, as docs/machines.md makes them. Variables that name them."""
        blocks = code_blocks("openssl")
        for block in blocks:
            subprocess.run(["sh", "-euc", block], cwd=at, check=True, capture_output=True)
        tls = {"CA_FILE": "ca.pem"}
        for role in ("CLIENT", "WORKER", "SCHEDULER"):
            tls |= {f"{role}__CERT": "machine.pem", f"{role}__KEY": "machine.key"}
        return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(at / file) for name, file in tls.items()}

    def __enter__(self) -> Self:
        self.begin_scheduler()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_workers()
        self.scheduler.kill()

    def kill_workers(self) -> None:
        while self.workers:
            self.workers.pop().kill()

    def begin_scheduler(self) -> None:
        port = self.address.rsplit(":", 1)[1]
        where = ["--protocol", "tls", "--host", self.host, "--port", port]
        self.scheduler = Host(["dask", "scheduler", *where, "--no-dashboard"], self.environment)

    def begin_worker(
        self,
        name: str,
        tags: str | None = None,
        first: str = "true",
        network: bool = False,
        environment: dict[str, str] | None = None,
    ) -> Host:
        """`first`: a command that is run before, in a view of files of its own. `network`: it begins when it is given one."""
        if network:
            first = "until ip -4 address show up | grep -q 'global eth0'; do sleep 0.1; done"
        if tags is None:
            offered = [str(PROGRAM), "tag", "--jobs", "2", "x264enc", "vp8enc"]
            tags = subprocess.run(offered, check=True, capture_output=True, text=True).stdout.strip()
        directory = self.at / name
        directory.mkdir(exist_ok=True)
        worker = f"dask worker {self.address} --no-nanny --nthreads 2 --no-dashboard --resources '{tags}'"
        script = f"cd {directory} && {first} && exec {worker} --local-directory {directory} --name {name}"
        environment = self.environment | (environment or {})
        self.workers.append(Host(["unshare", "--mount", "sh", "-c", script], environment, network))
        return self.workers[-1]
