"""Runs all tests with the lowest or the newest versions that pyproject.toml allows, and keeps what came of it.

    python tests/benchmarks/versions.py lowest --python 3.10 [PYTEST'S WORDS ...]

Needs uv, which makes the virtual environment. A run in which nothing fails replaces the one of the same versions and Python in
vit_helpers/measured.json, and README shows them all.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from xml.etree import ElementTree

from record import record

from vit_helpers.pretrained import MEASURED
from vit_helpers.runtime import written_whole

ROOT = Path(__file__).parents[2]
MARKS = "<!-- versions -->\n", "\n<!-- /versions -->"
RESOLUTION = {"lowest": "lowest-direct", "newest": "highest"}
SHOWN = ("torch", "torchvision", "numpy", "scipy", "pillow", "matplotlib", "ipywidgets", "jupyterlab", "timm", "pytest")


def counts(report):
    """How many tests a JUnit report tells of: a dict of passed, skipped and failed (errors too)."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    total, skipped, failed, broken = (int(suite.get(name)) for name in ("tests", "skipped", "failures", "errors"))
    return {"passed": total - skipped - failed - broken, "skipped": skipped, "failed": failed + broken}


def run(versions, wanted, words, folder):
    """All tests in an environment of its own in `folder`: a dict of versions, counts and seconds."""
    uv = ["uv", "pip", "install", "--python", str(folder), "--no-config", "--resolution", RESOLUTION[versions]]
    subprocess.run(["uv", "venv", "--no-config", "--python", wanted, str(folder)], check=True)
    subprocess.run([*uv, "-e", ".[course,test]"], cwd=ROOT, check=True)
    binaries, report = folder / ("Scripts" if os.name == "nt" else "bin"), folder / "report.xml"
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(folder)}
    started = perf_counter()
    python = str(binaries / "python")
    subprocess.run([python, "-m", "pytest", f"--junitxml={report}", *words], cwd=ROOT, env=environment)
    seconds = perf_counter() - started
    version = subprocess.check_output([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True).strip()
    code = f"import importlib.metadata as m, json; print(json.dumps({{name: m.version(name) for name in {SHOWN}}}))"
    packages = json.loads(subprocess.check_output([python, "-c", code]))
    return {"versions": versions, "python": version, "system": platform.system(), **counts(report), "seconds": round(seconds),
            "words": words, "packages": packages}


def table(rows):
    """The runs as README shows them, in Markdown."""
    heads = ["versions", "Python", "torch", "torchvision", "NumPy", "Matplotlib", "Pillow", "passed", "skipped", "failed",
             "minutes"]
    if not rows:
        return "Not measured yet."
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        packages = [row["packages"][name].partition("+")[0] for name in map(str.lower, heads[2:7])]
        cells = [row["versions"], row["python"], *packages, f"{row['passed']:,}", row["skipped"], row["failed"],
                 f"{row['seconds'] / 60:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def with_table(readme, rows):
    """README with these runs in their place."""
    before, rest = readme.split(MARKS[0])
    return before + MARKS[0] + table(rows) + MARKS[1] + rest.split(MARKS[1], 1)[1]


def known():
    """The runs that were recorded, a list."""
    return json.loads(MEASURED.read_text(encoding="utf-8")).get("environments", {"rows": []})["rows"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=RESOLUTION)
    parser.add_argument("--python", required=True, help="such as 3.10, or the path of one")
    args, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as place:
        row = run(args.versions, args.python, words, Path(place) / "venv")
    print(table([row]))
    if row["failed"] or not row["passed"]:
        sys.exit("not every test passed, so nothing is recorded")
    rows = [other for other in known() if (other["versions"], other["python"]) != (row["versions"], row["python"])] + [row]
    rows.sort(key=lambda row: (row["versions"], row["python"]))
    record("environments", {"what": "All tests, in virtual environments of their own.", "rows": rows,
                            "command": "python tests/benchmarks/versions.py VERSIONS --python PYTHON"})
    with written_whole(ROOT / "README.md") as temporary:
        temporary.write_text(with_table((ROOT / "README.md").read_text(encoding="utf-8"), rows), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
