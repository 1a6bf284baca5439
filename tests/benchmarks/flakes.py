"""Whether the tests pass each time, in any order: runs the whole suite again and again, and says what did not always pass.

    python tests/benchmarks/flakes.py --runs 20

Run number N shuffles the tests with seed N (pytest-randomly); the cells of the notebooks keep their order, which is theirs.
To run one of them again: pytest tests -p randomly --randomly-seed=N
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def suite(seed, words=()):
    """One run of the whole suite: {test: whether it passed}, and how many seconds it took. SystemExit where nothing is run."""
    passed, started = {}, time.monotonic()
    parts = [["tests", "-p", "randomly", f"--randomly-seed={seed}"], ["notebooks"]] if not words else [
        [*words, "-p", "randomly", f"--randomly-seed={seed}"]]
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *part]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode not in (0, 1):
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
            for case in ElementTree.parse(report).iter("testcase"):
                name = f"{case.get('classname')}::{case.get('name')}"
                passed[name] = passed.get(name, True) and case.find("failure") is None and case.find("error") is None
    return passed, time.monotonic() - started


def flakes(runs):
    """Of some runs {test: whether it passed}: how often each test failed that did not pass every time, {test: count}."""
    failed = defaultdict(int)
    for run in runs:
        for name, good in run.items():
            failed[name] += not good
    return {name: count for name, count in sorted(failed.items()) if count}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the seed of the first run")
    parser.add_argument("words", nargs="*", help="files of tests, or other words for pytest, instead of the whole suite")
    args = parser.parse_args()
    runs = []
    for seed in range(args.first, args.first + args.runs):
        passed, seconds = suite(seed, args.words)
        runs.append(passed)
        wrong = [name for name, good in passed.items() if not good]
        print(f"seed {seed}: {len(passed) - len(wrong)} of {len(passed)} passed in {seconds:.0f} s"
              + "".join(f"\n  failed: {name}" for name in wrong), flush=True)
    found = flakes(runs)
    always = [name for name, count in found.items() if count == len(runs)]
    print(f"{sum(all(run.values()) for run in runs)} of {len(runs)} runs passed; {len(always)} tests failed each time, "
          f"{len(found) - len(always)} now and then: "
          + (", ".join(f"{name} ({count} times)" for name, count in found.items()) or "none"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
