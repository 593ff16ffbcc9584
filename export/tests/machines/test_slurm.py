# SPDX-License-Identifier: MPL-2.0

"""`vtexport` on machines of Slurm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clusters import PROGRAM, Slurm, code_blocks
from conftest import CHUNKS, SLOW_VIDEO, VIDEO, Command, Films, records, until

Begin = Callable[..., Command]


def begin(command: Begin, films: Films, video: str = SLOW_VIDEO) -> Command:
    return command(films.source, "-o", "film.mkv", "--engine", "slurm", *CHUNKS, video)


def queue() -> list[str]:
    said = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i %T"], check=True, capture_output=True, text=True
    )
    return said.stdout.splitlines()


def test_the_film_is_that_of_one_machine(slurm: Slurm, films: Films, command: Begin, tmp_path: Path) -> None:
    begin(command, films, VIDEO).ended()
    films.check(tmp_path / "film.mkv")
    assert not (tmp_path / "film.mkv.vtexport").exists()
    until(lambda: queue() == [])


def test_a_machine_that_is_lost_or_stands_still_does_not_decide_the_end(
    slurm: Slurm, films: Films, command: Begin, tmp_path: Path
) -> None:
    it = begin(command, films)
    until(lambda: len(records(tmp_path / "film.mkv.vtexport")) >= 2)
    slurm.hosts["node1"].kill()
    slurm.hosts["node2"].stop()
    it.ended()
    films.check(tmp_path / "film.mkv")
    # It wakes when all is over, and does no harm.
    slurm.hosts["node2"].wake()
    until(lambda: slurm.idle() >= 2)
    films.check(tmp_path / "film.mkv")
    assert not (tmp_path / "film.mkv.vtexport").exists()


def test_the_controller_may_be_started_anew(
    slurm: Slurm, films: Films, command: Begin, tmp_path: Path
) -> None:
    it = begin(command, films)
    until(lambda: len(records(tmp_path / "film.mkv.vtexport")) >= 2)
    slurm.kill_controller()
    until(lambda: subprocess.run(["scontrol", "ping"], check=False, capture_output=True).returncode != 0)
    slurm.begin_controller()

    # One that was killed may find tasks on machines that it doesn't remember, and drain these: whoever minds the machines resumes them.
    def ended() -> bool:
        resume = ["scontrol", "update", "NodeName=ALL", "State=RESUME"]
        subprocess.run(resume, check=False, capture_output=True)
        return it.process.poll() is not None

    until(ended, 120)
    it.ended()
    films.check(tmp_path / "film.mkv")


def test_ctrl_c_empties_the_queue_and_leaves_what_is_done(
    slurm: Slurm, films: Films, command: Begin, tmp_path: Path
) -> None:
    it = begin(command, films)
    folder = tmp_path / "film.mkv.vtexport"
    until(lambda: len(records(folder)) >= 2)
    it.interrupt()
    assert "the same command goes on" in it.ended(75)
    until(lambda: queue() == [])
    done = len(records(folder))
    words = begin(command, films).ended()
    assert f"{done} of 12 chunks are there already" in words
    films.check(tmp_path / "film.mkv")


def test_by_hand_a_lost_machine_is_requeued_and_join_waits(
    slurm: Slurm, films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/machines.md has it: without second copies, so that it is Slurm who notices."""
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:{os.environ['PATH']}")
    (script,) = code_blocks("sbatch --dependency")
    chunks = " ".join(f"'{it}'" for it in [*CHUNKS, SLOW_VIDEO])
    script = script.replace("film.mov", str(films.source)).replace(" --threads 2", f" {chunks}")
    # (A task that says that another time it may go better is requeued by Slurm: RequeueExit.)
    once = "[ -e again ] || [ \\$SLURM_ARRAY_TASK_ID != 5 ] || { touch again; exit 75; }; "
    script = script.replace('--wrap "vtexport chunk', f'--wrap "{once}vtexport chunk')
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True)
    until(lambda: len(records(tmp_path / "job")) >= 2)
    slurm.hosts["node3"].kill()
    until(lambda: queue() == [], 120)
    films.check(tmp_path / "film.mp4")
    assert (tmp_path / "again").exists()
