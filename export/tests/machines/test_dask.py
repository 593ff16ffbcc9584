# SPDX-License-Identifier: MPL-2.0

"""`vtexport` on workers of Dask."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clusters import Dask, Network
from conftest import CHUNKS, SLOW_VIDEO, VIDEO, Command, Films, packets, records, until

Begin = Callable[..., Command]


def begin(
    command: Begin, films: Films, dask: Dask, video: str = SLOW_VIDEO, output: str = "film.mkv"
) -> Command:
    return command(films.source, "-o", output, *dask.engine, *CHUNKS, video)


def test_the_film_is_that_of_one_machine(dask: Dask, films: Films, command: Begin, tmp_path: Path) -> None:
    dask.begin_worker("one"), dask.begin_worker("two")
    begin(command, films, dask, VIDEO).ended()
    films.check(tmp_path / "film.mkv")
    assert not (tmp_path / "film.mkv.vtexport").exists()


def test_two_passes(dask: Dask, films: Films, command: Begin, tmp_path: Path) -> None:
    dask.begin_worker("one")
    rate = "x264enc speed-preset=ultrafast bitrate=200"
    more = ["--multi-pass", *CHUNKS, rate]
    command(films.source, "-o", "alone.mkv", *more).ended()
    command(films.source, "-o", "film.mkv", *dask.engine, *more).ended()
    assert packets(tmp_path / "film.mkv") == packets(tmp_path / "alone.mkv")


def test_workers_that_are_lost_or_stand_still_cost_their_chunks(
    dask: Dask, films: Films, command: Begin, tmp_path: Path
) -> None:
    lost, stands = dask.begin_worker("lost"), dask.begin_worker("stands")
    dask.begin_worker("stays")
    it = begin(command, films, dask)
    until(lambda: len(records(tmp_path / "film.mkv.vtexport")) >= 2)
    lost.kill()
    stands.stop()
    it.ended()
    films.check(tmp_path / "film.mkv")
    # It wakes when all is over, and does no harm.
    stands.wake()
    stands.kill()
    films.check(tmp_path / "film.mkv")


def test_a_host_without_network_costs_its_chunks(
    network: Network,
    films: Films,
    command: Begin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody says that it is gone, and its worker goes on: it is only out of reach, for longer than Dask waits, and comes back."""
    with Dask(tmp_path / "cluster", network.address) as dask:
        for name, value in dask.environment.items():
            monkeypatch.setenv(name, value)
        cables = [network.join(dask.begin_worker(str(number), network=True)) for number in range(2)]
        it = begin(command, films, dask)
        until(lambda: len(records(tmp_path / "film.mkv.vtexport")) >= 2)
        network.ip("link", "set", cables[0], "down")
        it.ended()
        films.check(tmp_path / "film.mkv")
        network.ip("link", "set", cables[0], "up")
        # Both are there for the next one.
        again = begin(command, films, dask, output="again.mkv")
        again.ended()
        films.check(tmp_path / "again.mkv")
        films.check(tmp_path / "film.mkv")


def test_the_scheduler_may_be_started_anew(dask: Dask, films: Films, command: Begin, tmp_path: Path) -> None:
    dask.begin_worker("one")
    it = begin(command, films, dask)
    until(lambda: len(records(tmp_path / "film.mkv.vtexport")) >= 2)
    dask.scheduler.kill()
    dask.begin_scheduler()
    dask.begin_worker("two")
    assert "the scheduler is there again" in it.ended()
    films.check(tmp_path / "film.mkv")


def test_ctrl_c_leaves_what_is_done_and_two_at_once_do_no_harm(
    dask: Dask, films: Films, command: Begin, tmp_path: Path
) -> None:
    dask.begin_worker("one"), dask.begin_worker("two")
    it = begin(command, films, dask)
    folder = tmp_path / "film.mkv.vtexport"
    until(lambda: len(records(folder)) >= 2)
    assert "another vtexport is at work" in begin(command, films, dask).ended(75)
    # Its chunks have the same names for Dask, but for the run.
    other = begin(command, films, dask, output="other.mkv")
    it.interrupt()
    assert "the same command goes on" in it.ended(75)
    done = len(records(folder))
    assert f"{done} of 12 chunks are there already" in begin(command, films, dask).ended()
    other.ended()
    films.check(tmp_path / "film.mkv")
    films.check(tmp_path / "other.mkv")


def test_a_command_that_is_killed_leaves_nothing_at_work(
    dask: Dask, films: Films, command: Begin, tmp_path: Path
) -> None:
    worker = dask.begin_worker("one")
    it = begin(command, films, dask)
    until(lambda: len(records(tmp_path / "film.mkv.vtexport")) >= 2)
    it.process.kill()
    until(lambda: not worker.has("vtexport chunk"))


def test_a_worker_without_space_is_left_alone(
    dask: Dask, films: Films, command: Begin, tmp_path: Path
) -> None:
    it = begin(command, films, dask)
    folder = tmp_path / "film.mkv.vtexport"
    until(lambda: (folder / "plan.json").exists())
    # In its own view, the folder is on a file system that the plan has filled.
    plan = (folder / "plan.json").stat().st_size
    full = f"mount -t tmpfs -o size={plan // 4096 * 4 + 8}k none {folder}"
    dask.begin_worker("full", first=f"cp {folder}/plan.json . && {full} && cp plan.json {folder}/")
    until(lambda: "attempt 1: its process ended with 75" in it.so_far())
    dask.begin_worker("one")
    it.ended()
    films.check(tmp_path / "film.mkv")


def test_a_source_that_changes_under_way_is_an_error(
    dask: Dask, films: Films, command: Begin, tmp_path: Path
) -> None:
    dask.begin_worker("one")
    source = tmp_path / "source.mkv"
    source.write_bytes(films.source.read_bytes())
    it = command(source, "-o", "film.mkv", *dask.engine, *CHUNKS, SLOW_VIDEO)
    until(lambda: len(records(tmp_path / "film.mkv.vtexport")) >= 2)
    source.write_bytes(source.read_bytes()[:-1000])
    assert "isn't the file any more that was planned for" in it.ended(65)
    assert not (tmp_path / "film.mkv").exists()


def test_only_workers_with_the_tag_get_tasks(
    dask: Dask, films: Films, command: Begin, tmp_path: Path
) -> None:
    dask.begin_worker("other", tags="vtexport-x264enc-00000000=2")
    it = begin(command, films, dask, VIDEO)
    until(lambda: "no worker offers vtexport-x264enc-" in it.so_far())
    dask.begin_worker("one")
    it.ended()
    films.check(tmp_path / "film.mkv")


def test_a_worker_of_another_installation_makes_nothing(
    dask: Dask, films: Films, command: Begin, tmp_path: Path
) -> None:
    # It says that it is like this one, and isn't: its encoder's file is another.
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    at = subprocess.run(["gst-inspect-1.0", "x264"], capture_output=True, text=True, check=True).stdout
    file = next(line.split()[-1] for line in at.splitlines() if "Filename" in line)
    (plugins / "libgstx264.so").write_bytes(Path(file).read_bytes() + b"another")
    other = {"GST_PLUGIN_PATH": str(plugins), "GST_REGISTRY": str(tmp_path / "registry")}
    dask.begin_worker("other", environment=other)
    assert "isn't the one that the plan was made with" in begin(command, films, dask, VIDEO).ended(78)
    it = begin(command, films, dask, VIDEO)
    dask.begin_worker("one")
    it.ended()
    films.check(tmp_path / "film.mkv")


@pytest.mark.parametrize("certificates", ["none", "others"])
def test_nobody_submits_without_a_certificate(
    dask: Dask, films: Films, command: Begin, certificates: str, tmp_path: Path
) -> None:
    names = [name for name in os.environ if name.startswith("DASK_DISTRIBUTED__COMM__TLS")]
    environment = dict.fromkeys(names, "") if certificates == "none" else dask.certificates(tmp_path)
    words = command(films.source, "-o", "film.mkv", *dask.engine, *CHUNKS, VIDEO, **environment).ended(2)
    assert dask.address in words
    assert len(words.strip().splitlines()) <= 2, words


def test_a_plain_connection_is_refused(dask: Dask, films: Films, command: Begin) -> None:
    plain = dask.address.replace("tls://", "tcp://")
    words = command(
        films.source, "-o", "film.mkv", "--engine", "dask", "--scheduler", plain, *CHUNKS, VIDEO
    ).ended(2)
    assert "tls://" in words, words


def wait(it: Command, directory: Path, enough: int) -> None:
    """Until so many chunks are done, or all."""
    folder = directory / "film.mkv.vtexport"
    until(lambda: it.process.poll() is not None or len(records(folder)) >= enough)


@pytest.mark.parametrize("seed", range(20))
def test_random_kills(dask: Dask, films: Films, command: Begin, tmp_path: Path, seed: int) -> None:
    """Twenty runs, as far as a machine lives up to that: what is killed when follows from the seed."""
    chance = random.Random(seed)
    workers = [dask.begin_worker(str(number)) for number in range(2)]
    it = begin(command, films, dask)
    for kills in range(chance.randint(1, 3)):
        wait(it, tmp_path, chance.randint(0, 8))
        at = chance.randrange(3)
        if at < 2:
            workers[at].kill()
            workers[at] = dask.begin_worker(f"{at}-{kills}")
        else:
            it.process.kill()
            it.process.wait()
            it = begin(command, films, dask)
    it.ended()
    films.check(tmp_path / "film.mkv")
