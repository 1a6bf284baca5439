"""Whether the tests pass each time, in any order: runs the whole suite again and again, and says what did not always pass.

    python tests/benchmarks/flakes.py --runs 20

Run number N shuffles the tests with seed N (pytest-randomly); the cells of the notebooks keep their order, which is theirs.
To run one of them again: pytest tests -p randomly --randomly-seed=N
Each run is recorded as it ends, so that twenty in a row can be made in several evenings: the next call goes on with the next
seed. README says how many passed in a row up to now. Changes beside the tests and the package (measured figures, texts) are no
reason to begin anew; after others, call with --anew.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

from vit_helpers.pretrained import MEASURED

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


def sentence(runs):
    """What README says of the recorded runs, the last ones of which passed in a row."""
    row = in_a_row(runs)
    if not row:
        return "Not measured yet."
    first, last = row[0]["seed"], row[-1]["seed"]
    which = f"1 whole run passed, seed {first}" if len(row) == 1 else (
        f"{len(row)} whole runs in a row passed, seeds {first} to {last}")
    return f"{which}, {row[-1]['tests']:,} tests each, {median(run['seconds'] for run in row) / 60:.0f} minutes a run."


def in_a_row(runs):
    """The last runs of a list of recorded ones, after the last that failed."""
    failed = [place for place, run in enumerate(runs) if run["failed"]]
    return runs[failed[-1] + 1 if failed else 0:]


def with_sentence(readme, runs):
    """README with the sentence about the recorded runs renewed."""
    readme, times = re.subn(r"(?<=<!-- flakes -->\n).*(?=\n<!-- /flakes -->)", lambda _: sentence(runs), readme)
    assert times == 1, f"README has {times} places for the runs"
    return readme


def keep(runs, out=None):
    """Record the runs, in README too, unless another file than the project's is given."""
    from record import record

    record("flakes", {"runs": runs}, out)
    if not out:
        readme = ROOT / "README.md"
        readme.write_text(with_sentence(readme.read_text(encoding="utf-8"), runs), encoding="utf-8", newline="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, help="the seed of the first run; default: the one after the last recorded")
    parser.add_argument("--anew", action="store_true", help="forget the recorded runs")
    parser.add_argument("--out", help="the file to record in instead of vit_helpers/measured.json")
    parser.add_argument("words", nargs="*", help="files of tests, or other words for pytest, instead of the whole suite; "
                                                 "not recorded")
    args = parser.parse_args()
    kept = Path(args.out or MEASURED)
    recorded = json.loads(kept.read_text(encoding="utf-8")).get("flakes", {}).get("runs", []) if kept.exists() else []
    if args.anew:
        recorded = []
    first = args.first or (recorded[-1]["seed"] + 1 if recorded and not args.words else 1)
    runs = []
    for seed in range(first, first + args.runs):
        passed, seconds = suite(seed, args.words)
        runs.append(passed)
        wrong = [name for name, good in passed.items() if not good]
        if not args.words:
            recorded = [*recorded, {"seed": seed, "tests": len(passed), "seconds": round(seconds), "failed": wrong}]
            keep(recorded, args.out)
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
