# SPDX-License-Identifier: MPL-2.0

"""Real schedulers on this machine: each test's machines are processes of it, or hosts in namespaces of their own.

`scripts/test-machines` runs these. What they wait for is a condition with a bound, which is no measure of anything.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusters import PROGRAM, Dask, Network, Slurm

FRAMES = 240
WIDTH, HEIGHT = 192, 112
VIDEO = "x264enc speed-preset=ultrafast pass=quant vbv-buf-capacity=0"
# A chunk takes a second or more, so that something can befall it. The bytes are the same.
SLOW_VIDEO = f"identity sleep-time=40000 ! {VIDEO}"
CHUNKS = ["--chunk-frames", "20", "--threads", "1", "--video"]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits for it; nobody else wakes this."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def numbers(film: Path) -> list[int]:
    """The numbers that are painted in the frames of a film, as bits in black and white along the top."""
    size = WIDTH * HEIGHT
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", film, "-f", "rawvideo", "-pix_fmt", "gray", "-"],
        check=True,
        capture_output=True,
    ).stdout
    assert len(raw) % size == 0
    rows = [raw[at + 8 * WIDTH : at + 9 * WIDTH] for at in range(0, len(raw), size)]
    return [sum((row[8 + 16 * bit] > 127) << bit for bit in range(12)) for row in rows]


def packets(film: Path) -> str:
    """A digest of a film's picture as it is encoded."""
    said = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", film, "-map", "0:v", "-c", "copy", "-f", "md5", "-"],
        check=True,
        capture_output=True,
        text=True,
    )
    return said.stdout.strip()


class Films:
    """A source in a directory, and what one machine makes of it."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "film.mkv"
        bits = "if(lt(Y\\,16)\\,255*mod(floor(N/pow(2\\,floor(X/16)))\\,2)\\,mod(X+Y*2+N*3\\,256))"
        picture = f"nullsrc=size={WIDTH}x{HEIGHT}:rate=20,geq=lum='{bits}':cb=128:cr=128"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-frames:v", str(FRAMES)]
            + ["-c:v", "libx264", "-preset", "ultrafast", "-g", "40", self.source],
            check=True,
        )
        alone = directory / "alone.mkv"
        subprocess.run([PROGRAM, self.source, "-o", alone, "--quiet", *CHUNKS, VIDEO], check=True)
        self.expected = packets(alone)
        assert numbers(alone) == list(range(FRAMES))

    def check(self, output: Path) -> None:
        """It is what one machine makes."""
        assert numbers(output) == list(range(FRAMES))
        assert packets(output) == self.expected


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.mktemp("films"))


class Command:
    """`vtexport` at work in a directory."""

    def __init__(self, directory: Path, *arguments: str | Path, **environment: str) -> None:
        handle, name = tempfile.mkstemp(dir=directory)
        self.words = Path(name)
        self.process = subprocess.Popen(
            [PROGRAM, *arguments], cwd=directory, env=os.environ | environment, stderr=handle, stdout=handle
        )
        os.close(handle)

    def so_far(self) -> str:
        """What it said."""
        return self.words.read_text()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ended(self, code: int = 0) -> str:
        """It has to end with that; what it said."""
        self.process.wait(120)
        words = self.so_far()
        assert self.process.returncode == code, words
        assert "panicked" not in words
        return words


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def begin(*arguments: str | Path, **environment: str) -> Command:
        commands.append(Command(tmp_path, *arguments, **environment))
        return commands[-1]

    yield begin
    for it in commands:
        it.process.kill()
        it.process.wait()


def records(folder: Path) -> list[str]:
    """Chunks that are done."""
    return [it.name for it in folder.glob("records/*.json")]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    cluster = Slurm(tmp_path / "cluster")
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    with cluster:
        until(lambda: cluster.idle() == len(cluster.nodes))
        yield cluster


@pytest.fixture(scope="session")
def dask_scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with Dask(tmp_path_factory.mktemp("dask") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def network() -> Iterator[Network]:
    switch = Network()
    try:
        switch.__enter__()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no networks: {error.stderr}")
    yield switch
    switch.__exit__()


@pytest.fixture
def dask(dask_scheduler: Dask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dask]:
    """Without workers."""
    for name, value in dask_scheduler.environment.items():
        monkeypatch.setenv(name, value)
    yield dask_scheduler
    dask_scheduler.kill_workers()
