# SPDX-License-Identifier: MPL-2.0

"""What docs/machines.md says of other schedulers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import kubernetes_validate
import yaml

from clusters import PROGRAM, code_blocks, free_ports
from conftest import CHUNKS, VIDEO, Films, until

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {at}/key
AuthorizedKeysFile {at}/key.pub
PidFile {at}/pid
StrictModes no
SetEnv PATH={path}
"""

SSH = """
Host hosta hostb
    HostName 127.0.0.1
    Port {port}
    IdentityFile {at}/key
    UserKnownHostsFile {at}/known
    StrictHostKeyChecking accept-new
"""


def test_gnu_parallel_over_ssh(films: Films, tmp_path: Path) -> None:
    at = tmp_path / "ssh"
    at.mkdir()
    (port,) = free_ports(1)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at / "key"], check=True)
    path = f"{PROGRAM.parent}:{os.environ['PATH']}"
    (at / "sshd").write_text(SSHD.format(port=port, at=at, path=path))
    (at / "ssh").write_text(SSH.format(port=port, at=at))
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", at / "sshd"])
    try:
        until((at / "pid").exists)
        (script,) = code_blocks("parallel --sshlogin")
        chunks = " ".join(f"'{it}'" for it in [*CHUNKS, VIDEO])
        script = script.replace("film.mov", str(films.source)).replace(" --threads 2", f" {chunks}")
        environment = os.environ | {"PATH": path, "PARALLEL_SSH": f"ssh -F {at}/ssh"}
        subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=environment, check=True)
    finally:
        server.terminate()
        server.wait()
    films.check(tmp_path / "film.mp4")


def test_the_manifest_of_kubernetes_is_one() -> None:
    (manifest,) = code_blocks("kind: Job")
    kubernetes_validate.validate(yaml.safe_load(manifest), "1.31", strict=True)
