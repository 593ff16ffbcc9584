# SPDX-License-Identifier: MPL-2.0

"""Connections that can't be made, and what is shipped beside the package."""

import asyncio
import json
import socket
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import CONFIGURATION, Cluster, Plan
from vtexport_dask.connection import connect
from vtexport_dask.task import Job, Refused, here, job_of


def test_a_caller_without_a_certificate_is_told(cluster: Cluster, plan: Plan) -> None:
    run = cluster.run(plan, "TWO", DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT="")
    code, text = run.failed()
    assert code == 2 and text.count("\n") == 1
    assert cluster.address in text and "CLIENT__CERT" in text


def test_certificates_that_are_not_there_are_told(cluster: Cluster, plan: Plan) -> None:
    run = cluster.run(plan, "TWO", DASK_DISTRIBUTED__COMM__TLS__CA_FILE="/nowhere.pem")
    code, text = run.failed()
    assert code == 2 and text.count("\n") == 1 and "TLS" in text


@pytest.mark.parametrize("requires", ["true", "false"])
def test_a_plain_connection_is_refused(cluster: Cluster, plan: Plan, requires: str) -> None:
    cluster_address = cluster.address
    cluster.address = cluster_address.replace("tls://", "tcp://")
    run = cluster.run(plan, "TWO", DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=requires)
    cluster.address = cluster_address
    code, text = run.failed()
    assert code == 2 and text.count("\n") == 1 and "tcp://127.0.0.1" in text


def test_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(Refused, match=address) as refused:
            asyncio.run(connect(address, 0.3))
    assert refused.value.code == 75


@pytest.mark.parametrize("address", ["host", "ftp://host:1"])
def test_an_address_is_none(address: str) -> None:
    with pytest.raises(Refused, match=address) as refused:
        asyncio.run(connect(address, 1))
    assert refused.value.code == 2


def test_a_line_that_asks_for_nothing_is_refused(cluster: Cluster, plan: Plan) -> None:
    run = cluster.run(plan, "TWO")
    run.ask(submit={"task": "0-1"})
    code, text = run.failed()
    assert code == 2 and '{"task": "0-1"}' in text


JOB = Job("9", "0-1", 0, "plan", "logs", False, None, None, "topic")


def test_another_version_is_refused() -> None:
    job = {"version": "9", "task": "0-1", "what": "nobody knows"}
    with pytest.raises(Refused, match="not 9") as refused:
        job_of(json.dumps(job))
    assert refused.value.code == 78
    assert JOB.packed()


def test_paths_are_seen_from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    rooted = replace(JOB, work_root="/mnt/caller")
    monkeypatch.setenv("VTEXPORT_WORK_ROOT", "/mnt/work")
    assert here(rooted, "film/plan.json") == "/mnt/work/film/plan.json"
    assert here(JOB, "/film/plan.json") == "/film/plan.json"
    monkeypatch.delenv("VTEXPORT_WORK_ROOT")
    assert here(rooted, "film/plan.json") == "/mnt/caller/film/plan.json"
    assert here(JOB, "/film/plan.json") == "/film/plan.json"


def keys(tree: dict[str, Any]) -> set[str]:
    """All of them, with those above them."""
    found = set()
    for name, value in tree.items():
        found.add(name)
        if isinstance(value, dict):
            found |= {f"{name}.{below}" for below in keys(value)}
    return found


def test_dask_knows_each_key_of_the_configuration() -> None:
    defaults = yaml.safe_load(files("distributed").joinpath("distributed.yaml").read_text())
    ours = yaml.safe_load(Path(CONFIGURATION).read_text())
    assert len(keys(ours)) > 20
    assert not keys(ours) - keys(defaults)
