"""What a command and a start cost, beside what a bare interpreter costs, in one run.

    python bench/commands.py [--rounds 15]

Best and median of several rounds; a HOME of its own, loopback only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(line: list[str], env: dict[str, str], rounds: int) -> tuple[float, float]:
    """Milliseconds: best, median."""
    spans = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        spans.append((time.perf_counter() - began) * 1000)
    return min(spans), statistics.median(spans)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cmd-", dir="/tmp") as folder:
        home = Path(folder)
        (home / "run").mkdir(mode=0o700)
        env = {**os.environ, "HOME": folder, "XDG_RUNTIME_DIR": str(home / "run")}
        for name in ("STATE", "CONFIG"):
            env[f"XDG_{name}_HOME"] = str(home / name.lower())
        proxyctl = [sys.executable, "-P", "-m", "modelproxy.ctl"]

        def tell(*words: str) -> str:
            return subprocess.run(
                [*proxyctl, *words], env=env, capture_output=True, text=True, check=True
            ).stdout

        try:
            for number in range(5):
                tell("up", f"echo/m{number}", "--port", "0")
            bare = measure([sys.executable, "-P", "-c", "pass"], env, rounds)
            rows = [("bare interpreter", bare)]
            rows += [
                (" ".join(words), measure([*proxyctl, *words], env, rounds))
                for words in (["ps"], ["ps", "--json"])
            ]
            rows.append(("ps -a (through typer)", measure([*proxyctl, "ps", "-a"], env, rounds)))
            for name, (best, median) in rows:
                print(f"{name:24} best {best:6.1f} ms  median {median:6.1f} ms  {best / bare[0]:4.1f} x bare")
            starts = []
            for number in range(rounds):
                began = time.perf_counter()
                tell("up", f"echo/s{number}", "--port", "0")
                starts.append((time.perf_counter() - began) * 1000)
                tell("down", f"echo/s{number}")
            print(
                f"{'up, command and worker':24} best {min(starts):6.1f} ms  median {statistics.median(starts):6.1f} ms"
            )
            print("memory of one worker:", memory(json.loads(tell("ps", "--json"))[0]["pid"]))
        finally:
            subprocess.run([*proxyctl, "daemon", "stop"], env=env, capture_output=True, check=False)


def memory(pid: int) -> str:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return "not told by this system"
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return f"RSS {found['Rss']:.1f} MiB, PSS {found['Pss']:.1f} MiB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    main(parser.parse_args().rounds)
