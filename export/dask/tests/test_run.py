# SPDX-License-Identifier: MPL-2.0

import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from conftest import HASTY, Cluster, Plan, died, until


def test_tasks_run_in_order_and_their_codes_are_told(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "hold", 1: "hold", 2: "exit 0", 3: "exit 1", 4: "exit 65", 5: "die"})
    run = cluster.run(plan, "TWO")
    run.submit("0-1", 0, 100)
    run.submit("1-1", 1, 100)
    worker = run.running("0-1")["worker"]
    run.running("1-1")
    for index in (2, 3, 4, 5):
        run.submit(f"{index}-1", index, index)
    plan.release(0)
    ends = {index: run.ended(f"{index}-1") for index in (0, 2, 3, 4, 5)}
    plan.release(1)
    ends[1] = run.ended("1-1")
    assert [ends[index]["code"] for index in range(6)] == [0, 0, 0, 1, 65, None]
    assert "signal 9" in ends[5]["text"]
    assert worker.startswith("tls://") and {end["worker"] for end in ends.values()} == {worker}
    # The most urgent ones first.
    assert list(run.states("running"))[2:] == ["5-1", "4-1", "3-1", "2-1"]
    assert (plan.logs / "3-1.out").read_text() == "made\n"
    assert (plan.logs / "3-1.err").read_text() == "last words\n"
    states = [(line["task"], line["state"]) for line in run.said]
    assert len(states) == len(set(states)) == 12
    assert run.finish() == 0


def test_places_of_a_plan_are_seen_from_the_workers_root(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "exit 0"})
    cluster.worker("ROOT", VTEXPORT_WORK_ROOT=str(plan.folder.parent))
    missing = Plan(plan.folder)
    missing.path, missing.logs = Path("film.export/plan.json"), Path("film.export/logs")
    run = cluster.run(missing, "ROOT")
    run.submit("0-1", 0)
    unset = cluster.run(missing, "TWO")
    unset.submit("0-1", 0)
    end = unset.ended("0-1")
    assert end["code"] == 2 and "VTEXPORT_WORK_ROOT" in end["text"]
    assert run.ended("0-1")["code"] == 0
    assert (plan.logs / "0-1.out").exists()


def test_an_unfit_worker_is_not_used_again(cluster: Cluster, plan: Plan) -> None:
    plan.write(dict.fromkeys(range(4), "exit 0"))
    cluster.worker("SOME", VTEXPORT_PROGRAM="/nowhere/vtexport")
    run = cluster.run(plan, "SOME", program=[sys.executable, *HASTY])
    run.submit("0-1", 0)
    end = run.ended("0-1")
    assert end["code"] == 78 and "/nowhere/vtexport" in end["text"]
    # One that comes later counts.
    cluster.worker("SOME")
    cluster.worker("SOME", FAKE_CODE="78")
    both = cluster.run(plan, "SOME")
    for index in range(4):
        both.submit(f"{index}-2", index)
    ends = [both.ended(f"{index}-2") for index in range(4)]
    assert [end["code"] for end in ends] == [0] * 4
    assert len({end["worker"] for end in ends}) == 1
    # The two others were used for no more than what was submitted before it was known what they are.
    assert sum(len(plan.begun(index)) for index in range(4)) <= 4 + 3


def test_a_worker_without_the_package_is_named(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "exit 0"})
    block = "import sys\nsys.modules['vtexport_dask'] = None\n"
    (plan.folder / "sitecustomize.py").write_text(block)
    cluster.worker("BARE", PYTHONPATH=str(plan.folder))
    run = cluster.run(plan, "BARE")
    run.submit("0-1", 0)
    end = run.ended("0-1")
    assert end["code"] == 78 and "vtexport-dask 0.1.0 has to be installed" in end["text"]


def test_nobody_offers_the_tag(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "exit 0"})
    run = cluster.run(plan, "LATE", program=[sys.executable, *HASTY])
    run.submit("0-1", 0)
    text = until(lambda: run.told("LATE"))
    assert '--resources "LATE=1"' in text
    cluster.worker("LATE")
    assert run.ended("0-1")["code"] == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_task_is_run_elsewhere_when_its_worker_ends(
    cluster: Cluster, plan: Plan, how: signal.Signals
) -> None:
    # A program whose input ends ends by itself; the other one has to be ended.
    plan.write({0: "hold" if how == signal.SIGKILL else "deaf"})
    worker = cluster.worker(how.name)
    run = cluster.run(plan, how.name)
    run.submit("0-1", 0)
    pid = plan.first(0)
    worker.send_signal(how)
    until(partial(died, pid), 2)
    cluster.worker(how.name)
    plan.first(0, 1)
    plan.release(0)
    end = run.ended("0-1")
    assert end["code"] == 0 and end["worker"] == run.running("0-1")["worker"]


def test_a_task_that_kills_workers_is_given_up(own: Cluster, plan: Plan) -> None:
    own.env["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "0"
    own.scheduler.kill()
    own.start_scheduler(int(own.address.rsplit(":", 1)[1]))
    plan.write({0: "hold"})
    worker = own.worker("KILL")
    run = own.run(plan, "KILL")
    run.submit("0-1", 0)
    plan.first(0)
    worker.kill()
    end = run.ended("0-1")
    assert end["code"] is None and "lost" in end["text"] and end["worker"].startswith("tls://")


def test_a_worker_that_sleeps_is_given_up_and_ends_its_job(own: Cluster, plan: Plan) -> None:
    plan.write({0: "deaf"})
    worker = own.worker("STOP")
    run = own.run(plan, "STOP")
    run.submit("0-1", 0)
    pid = plan.first(0)
    worker.send_signal(signal.SIGSTOP)
    own.worker("STOP")
    second = plan.first(0, 1)
    assert not died(pid)
    worker.send_signal(signal.SIGCONT)
    until(partial(died, pid), 5)
    assert not died(second)
    plan.release(0)
    assert run.ended("0-1")["code"] == 0


def test_a_scheduler_that_is_restarted_is_found_again(own: Cluster, plan: Plan) -> None:
    plan.write({0: "deaf", 1: "exit 0"})
    own.worker("BACK", 2)
    run = own.run(plan, "BACK")
    short = "from vtexport_dask import bridge, cli; bridge.AGAIN = bridge.TRY = 0.5; cli.main()"
    impatient = own.run(plan, "BACK", program=[sys.executable, "-c", short])
    run.submit("0-1", 0)
    pid = plan.first(0)
    impatient.submit("1-1", 1)
    impatient.ended("1-1")
    own.scheduler.kill()
    own.scheduler.wait()
    until(lambda: run.told("lost"))
    # Workers end with their scheduler, and their jobs with them.
    until(partial(died, pid), 5)
    code, text = impatient.failed()
    assert code == 75 and text.count("\n") == 1 and own.address in text
    own.start_scheduler(int(own.address.rsplit(":", 1)[1]))
    own.worker("BACK")
    plan.first(0, 1)
    run.submit("1-1", 1)
    plan.release(0)
    assert [run.ended(task)["code"] for task in ("0-1", "1-1")] == [0, 0]
    assert run.told("submitted again")


def test_a_task_that_is_cancelled_ends(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "deaf", 1: "deaf", 2: "exit 0"})
    run = cluster.run(plan, "TWO")
    run.submit("0-1", 0, 9)
    run.submit("1-1", 1, 9)
    run.submit("2-1", 2)
    run.submit("2-2", 2)
    pid = plan.first(0)
    run.ask(cancel="0-1")
    run.ask(cancel="2-1")
    until(partial(died, pid), 2)
    assert run.ended("2-2")["code"] == 0
    plan.release(1)
    run.ended("1-1")
    assert set(run.states("ended")) == {"1-1", "2-2"}
    assert len(plan.begun(2)) == 1


def test_nothing_goes_on_when_the_caller_is_killed(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "deaf", 1: "deaf", 2: "exit 0"})
    run = cluster.run(plan, "TWO")
    for index in range(3):
        run.submit(f"{index}-1", index, -index)
    pids = [plan.first(0), plan.first(1)]
    run.process.kill()
    assert all(until(partial(died, pid), 3) for pid in pids)
    assert not plan.begun(2)


def test_the_end_of_the_input_ends_all(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "deaf", 1: "deaf"})
    for number, end in enumerate(("input", "signal")):
        run = cluster.run(plan, "TWO")
        run.submit("0-1", 0)
        run.submit("1-1", 1)
        pids = [plan.first(index, number) for index in (0, 1)]
        # Ctrl-C is the caller's.
        run.process.send_signal(signal.SIGINT)
        if end == "signal":
            run.process.terminate()
        begun = time.monotonic()
        assert (run.process.wait(5) if end == "signal" else run.finish()) == 0
        assert time.monotonic() - begun < 3
        for pid in pids:
            until(partial(died, pid), 2)
        assert not run.states("ended")


def test_two_runs_of_one_plan_do_not_meet(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "deaf", 1: "exit 0"})
    runs = [cluster.run(plan, "TWO") for _ in range(2)]
    for run in runs:
        run.submit("0-1", 0)
        run.running("0-1")
    plan.first(0, 1)
    assert runs[0].finish() == 0
    plan.release(0)
    runs[1].submit("1-1", 1)
    assert [runs[1].ended(task)["code"] for task in ("0-1", "1-1")] == [0, 0]


def test_the_first_pass_is_asked_for(cluster: Cluster, plan: Plan) -> None:
    plan.write({0: "exit 0"})
    run = cluster.run(plan, "TWO", "--first-pass")
    run.submit("0-1", 0)
    assert run.ended("0-1")["code"] == 0
    assert (plan.logs / "0-1.out").read_text() == "made --first-pass\n"
