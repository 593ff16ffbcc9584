#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0

"""Stands in for vtexport: does for a chunk what the plan says, a word for each."""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

plan = Path(sys.argv[2])
index = sys.argv[4]
assert sys.argv[1] == "chunk" and sys.argv[3] == "--index"
assert sys.argv[5:7] == ["--json", "--attended"]
(plan.parent / f"begun-{index}-{time.time_ns()}").write_text(str(os.getpid()))
print("made", *sys.argv[7:], flush=True)
print("last words", file=sys.stderr, flush=True)
if "FAKE_CODE" in os.environ:
    sys.exit(int(os.environ["FAKE_CODE"]))
match json.loads(plan.read_text())[index].split():
    case ["exit", code]:
        sys.exit(int(code))
    case ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    case ["hold"]:
        # Until it is let go, or its input ends.
        while not (plan.parent / f"release-{index}").exists():
            if select.select([0], [], [], 0.02)[0] and not os.read(0, 1):
                sys.exit(1)
    case ["deaf"]:
        # It doesn't see its input's end.
        while not (plan.parent / f"release-{index}").exists():
            time.sleep(0.02)
