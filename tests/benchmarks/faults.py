"""Whether the tests notice mistakes: puts each fault of `fault_list.py` into a copy of the course and runs the tests there.

    python tests/benchmarks/faults.py [--only NAME ...] [--jobs 2] [--out FILE]

For each fault twice, each up to the first failure: the unit tests, and the notebooks alone, as nbval compares them in the smoke
budget. A run that does not end counts as a failure. First the unchanged copy is run, which must pass; it also shows which tests
and notebooks call which function, so that a fault is given to those only that could see it: first what noticed it when it was
last recorded, then the likely and the quick ones, and of notebooks as many as take 20 seconds unchanged, none of minutes.
The result is recorded, and a sentence of README written; with --only it takes the place of what was recorded of those faults.
No real tiles, no browser, no network. Needs Linux or macOS
(`os.fork`): torch is imported once and shared by all runs.
"""

import argparse
import ast
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from importlib import import_module
from itertools import accumulate
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SETTING = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "VIT_BUDGET": "smoke", "PYTHONHASHSEED": "0",
           "PYTHONDONTWRITEBYTECODE": "1"}
# They would fail because a text was replaced, look at files, machines and versions instead of what the package does, or kill
# processes at moments that depend on how busy the machine is.
LEFT_OUT = {"test_faults_list", "test_flakes", "test_notebooks", "test_environments", "test_benchmarks", "test_throughput",
            "test_elsewhere", "test_faults"}
ASKED = {"test_publish"}                     # minutes long: run for the faults only that name it
NOTEBOOKS = 20                               # seconds that the notebooks given to one fault take unchanged, all but the first
LONG = 60                                    # seconds; longer files come last, such notebooks only if they noticed it before
PATIENCE = 120                               # seconds, and three times those of the unchanged copy, then a run hangs

# Python runs this file by itself at its start, in kernels and other programs too: it makes sure that they import the copy, and
# notes in a file each function of the copy that is called.
WATCH = '''
import os, sys, threading
from importlib.util import find_spec

PACKAGE = os.environ["FAULTS_COPY"] + "/vit_helpers/"

def watch(notes):
    known = set()

    def note(frame, event, _):                               # returns None: nothing but calls is traced
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            here = f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_firstlineno * (code.co_name != '<module>')}"
            if here not in known:
                known.add(here)
                with open(notes, "a") as file:
                    file.write(here + "\\n")

    threading.settrace(note)
    sys.settrace(note)

if find_spec("vit_helpers").origin != PACKAGE + "__init__.py":
    print("another vit_helpers than that of the copy would be tested:", find_spec("vit_helpers").origin, file=sys.stderr)
    os._exit(3)
if "FAULTS_NOTES" in os.environ:
    watch(os.environ["FAULTS_NOTES"])
'''


class First:
    """A plugin of pytest: the first test that fails, in a file. A cell is named by its notebook."""

    def __init__(self, path):
        self.path = path

    def pytest_runtest_call(self, item):
        sys.settrace(threading.gettrace())                   # an earlier test may have switched it off

    def note(self, report):
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid, encoding="utf-8")

    pytest_runtest_logreport = pytest_collectreport = note


def copy_of_the_course(folder, source=ROOT):
    """The package, the tests and the notebooks of the checkout `source` as they are now, in `folder`."""
    for name in ("vit_helpers", "notebooks", "tests", ".ci", ".binder"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, folder)


class Run:
    """pytest on some files of a copy of the course, in a forked child with its own temporary folder; `found` tells the end.

    `first` names a test to run before them; it may have gone.
    """

    def __init__(self, copy, files, seconds, notes=None, first=None):
        self.copy, self.files, self.notes, self.first, self.started = copy, files, notes, first, time.monotonic()
        self.seconds, self.end = None, self.started + seconds
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=copy.parent))
        self.process = os.fork()
        if not self.process:
            code = 4                                     # the package cannot even be imported
            try:
                code = self.work()
            finally:
                os._exit(code)

    def work(self):
        """In the child: pytest, as a reader of the copy would run it."""
        signal.signal(signal.SIGINT, signal.default_int_handler)     # also where the parent runs in the background
        output = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(output, stream)
        watcher = self.folder / "watcher"
        watcher.mkdir()
        (watcher / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
        os.environ.update(SETTING, TMPDIR=str(self.folder), FAULTS_COPY=str(self.copy),
                          PYTHONPATH=os.pathsep.join([str(watcher), str(self.copy)]))
        if self.notes:
            os.environ["FAULTS_NOTES"] = str(self.notes)
        os.environ.pop("EUROSAT_ROOT", None)
        tempfile.tempdir = None
        os.chdir(self.copy)
        sys.path[:0] = [str(self.copy)]
        sys.modules.pop("sitecustomize", None)
        exec(WATCH, {})
        import pytest

        # One after the other: pytest leaves out a test that is named beside its file.
        for words in ([self.first], self.files) if self.first else (self.files,):
            code = pytest.main([*map(str, words), "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-o", "addopts=",
                                "--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "--hypothesis-seed=0",
                                "--nbval-sanitize-with=tests/nbval_sanitize.cfg"], plugins=[First(self.folder / "first")])
            if code not in (0, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
                break
        return code

    def found(self):
        """None while it runs; then "" where all passed, else the first failure."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        late = time.monotonic() > self.end
        if not done and not late:
            return None
        self.stop(done)
        self.seconds = time.monotonic() - self.started
        first = self.folder / "first"
        told = first.read_text(encoding="utf-8") if first.exists() else ""
        if not told and (status or not done):
            told = "did not end" if not done else "stopped: " + (self.folder / "output").read_text("utf-8")[-300:]
        shutil.rmtree(self.folder, ignore_errors=True)
        return told

    def stop(self, done=False):
        """End it, unless it is done, and what its tests have started and left behind."""
        if not done:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        for other in psutil.process_iter(["environ"]):
            if (other.info["environ"] or {}).get("TMPDIR") == str(self.folder):
                with suppress(psutil.NoSuchProcess):
                    other.kill()


def function_of(text, at):
    """The line on which the function begins that holds place `at` of a program, decorators included; 0 outside of all."""
    line = text.count("\n", 0, at) + 1
    inside = [min([node.lineno, *(d.lineno for d in node.decorator_list)]) for node in ast.walk(ast.parse(text))
              if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno <= line <= node.end_lineno]
    return max(inside, default=0)


def all_of(waiting, jobs):
    """Start the runs of `waiting`, functions that return a Run, `jobs` at a time; yield each with its number as it ends."""
    waiting, running = list(enumerate(waiting)), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, start = waiting.pop(0)
                running[number] = start()
            for number, run in list(running.items()):
                if (told := run.found()) is not None:
                    del running[number]
                    yield number, run, told
            time.sleep(0.05)
    finally:
        for run in running.values():
            run.stop()


def unchanged(folder, jobs, files, kept):
    """Run all files in an unchanged copy: {file: (seconds, the functions it calls)}, also in the file `kept`, which spares what
    it has already. SystemExit where one fails."""
    copy = folder / "unchanged"
    copy_of_the_course(copy)
    notes, seen = folder / "notes", json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    notes.mkdir()
    files = [file for file in files if file not in seen]
    starts = [lambda file=file: Run(copy, [file], 900, notes / Path(file).stem) for file in files]
    for number, run, told in all_of(starts, jobs):
        if told:
            raise SystemExit(f"the unchanged course does not pass, so nothing could be learned: {told}")
        called = notes / Path(files[number]).stem
        seen[files[number]] = run.seconds, sorted(set(called.read_text(encoding="utf-8").split())) if called.exists() else []
        kept.write_text(json.dumps(seen), encoding="utf-8")
        print(f"unchanged: {files[number]} passes in {run.seconds:.0f} s", flush=True)
    return seen


def files_for(fault, seen, text, noticed_by=""):
    """Unit tests and notebooks that could see the fault, as they call its function, the likely and the quick ones first; all
    such unit tests, and notebooks until `NOTEBOOKS` seconds are over, without long ones. The notebook of the cell `noticed_by`,
    which noticed it the last time, stands before all others, however long it is."""
    from fault_list import SEEN_FIRST_BY

    here = f"{fault.file}:{function_of(text, text.index(fault.old))}"
    likely = SEEN_FIRST_BY[fault.file if fault.file in SEEN_FIRST_BY else fault.file.split("/")[0]]
    order = sorted((Path(file).stem not in likely or seconds > LONG, seconds, file) for file, (seconds, called) in seen.items()
                   if here in called and (Path(file).stem in likely or Path(file).stem not in ASKED))
    tests, notebooks = [[each for each in order if each[2].endswith(kind)] for kind in (".py", ".ipynb")]
    noticed_in = noticed_by.partition("::")[0]
    notebooks = sorted((each for each in notebooks if each[1] <= LONG or Path(each[2]).name == noticed_in),
                       key=lambda each: Path(each[2]).name != noticed_in)
    before = accumulate((seconds for _, seconds, _ in notebooks[:-1]), initial=0)        # of one file, those before it
    shown = [file for (_, _, file), seconds in zip(notebooks, before, strict=False) if seconds < NOTEBOOKS]
    return [[file for _, _, file in tests], shown]


def judge(fault, folder, number, kind, files, seen, first=None):
    """Start the run of one fault, the test `first` before the files."""
    copy = folder / f"{number}-{kind}"
    copy_of_the_course(copy, folder / "unchanged")           # not of the checkout, which somebody may be editing
    path = copy / "vit_helpers" / fault.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return Run(copy, files, PATIENCE + 3 * sum(seen[file][0] for file in files), first=first)


def preload():
    """Import what every run needs, but nothing of vit_helpers, of which each run has its own."""
    os.environ.update(SETTING)
    for name in ("pytest", "nbval.plugin", "hypothesis", "torch", "torch._dynamo", "torchvision", "scipy.ndimage",
                 "scipy.optimize", "matplotlib.figure", "matplotlib.backends.backend_agg", "ipywidgets", "timm"):
        import_module(name)
    import torch

    torch.set_num_threads(1)
    assert "vit_helpers" not in sys.modules


def recorded_rows():
    """What the last recorded run showed, {fault: row}; read as plain text, each run has a vit_helpers of its own."""
    kept = ROOT / "vit_helpers" / "measured.json"
    rows = json.loads(kept.read_text(encoding="utf-8")).get("faults", {}).get("rows", [])
    return {row["fault"]: row for row in rows}


def table(rows):
    """What caught each fault, and the shares, as text."""
    lines = [f"{row['fault'][:64]:66}{(row['unit tests'] or '-')[-60:]:62}{(row['notebooks'] or '-')[:40]}" for row in rows]
    total = shares(rows)
    return "\n".join([*lines, *(f"caught by {name}: {n} of {len(rows)} ({n / len(rows):.0%})" for name, n in total.items())])


def shares(rows):
    """How many faults each kind of test caught."""
    return {"unit tests": sum(bool(row["unit tests"]) for row in rows),
            "notebooks alone": sum(bool(row["notebooks"]) for row in rows),
            "together": sum(bool(row["unit tests"] or row["notebooks"]) for row in rows)}


def merged(last, rows, faults, jobs, seconds):
    """What is recorded: these rows and, of the faults that have none here, those of the last record."""
    known = {row["fault"]: row for row in [*(last["rows"] if last else []), *rows]}
    missing = [fault.name for fault in faults if fault.name not in known]
    if missing:
        raise SystemExit(f"not recorded, as no run has tried {', '.join(missing)}; leave --only out")
    tried, rows = len(rows), [known[fault.name] for fault in faults]
    return {"faults": len(rows), "again": last["again"] + tried if last else 0, "caught by": shares(rows), "jobs": jobs,
            "shown": last["shown"] if last else NOTEBOOKS, "seconds": seconds + (last["seconds"] if last else 0), "rows": rows}


def sentence(facts):
    """What README says about the last complete run; None stands for no run."""
    if facts is None:
        return "Not measured yet."
    by, again = facts["caught by"], facts["again"]
    return (f"Of {facts['faults']} mistakes the unit tests notice {by['unit tests']}, the notebooks alone "
            f"{by['notebooks alone']} (each mistake is shown to about {facts['shown']} seconds of them), both together "
            f"{by['together']}. It took {facts['seconds'] / 60:.0f} minutes, {facts['jobs']} at a time"
            f"{f', {again} of them tried again after a change of the tests' if again else ''}.")


def with_sentence(readme, facts):
    """README with the sentence about the last complete run renewed."""
    readme, times = re.subn(r"(?<=<!-- faults -->\n).*(?=\n<!-- /faults -->)", lambda _: sentence(facts), readme)
    assert times == 1, f"README has {times} places for what the faults showed"
    return readme


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME",
                        help="faults with these words in name or file; recorded in place of what the last run showed of them")
    parser.add_argument("--kind", choices=("unit", "notebooks"), help="only these tests; not recorded")
    parser.add_argument("--jobs", type=int, default=2, help="how many runs at a time")
    parser.add_argument("--seen", help="a file that keeps what the unchanged course showed, for the next time")
    parser.add_argument("--out", help="the file to record in instead of vit_helpers/measured.json")
    args = parser.parse_args()
    from fault_list import FAULTS

    started, last_rows = time.monotonic(), recorded_rows()
    faults = [fault for fault in FAULTS if not args.only or any(word in f"{fault.name} {fault.file}" for word in args.only)]
    preload()
    files = sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py") if path.stem not in LEFT_OUT)
    files += sorted(f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb"))
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        folder = Path(folder).resolve()
        seen = unchanged(folder, args.jobs, files, Path(args.seen or folder / "seen.json"))
        rows, starts, which = [{"fault": fault.name, "file": fault.file, "unit tests": None, "notebooks": None}
                               for fault in faults], [], []
        for number, fault in enumerate(faults):
            text = (folder / "unchanged" / "vit_helpers" / fault.file).read_text(encoding="utf-8")
            if text.count(fault.old) != 1:
                raise SystemExit(f"{fault.name}: its text is not in {fault.file} once; mend it in fault_list.py")
            last = last_rows.get(fault.name, {})
            test, cell = (last.get(kind) or "" for kind in ("unit tests", "notebooks"))
            for kind, chosen in zip(("unit", "notebooks"), files_for(fault, seen, text, cell), strict=True):
                first = test if kind == "unit" and "::" in test else None
                if chosen and args.kind in (None, kind):
                    which.append((number, kind, chosen))
                    starts.append(lambda a=(fault, folder, number, kind, chosen, seen, first): judge(*a))
        spent = defaultdict(float)
        for place, run, told in all_of(starts, args.jobs):
            number, kind, _ = which[place]
            rows[number]["unit tests" if kind == "unit" else "notebooks"] = told and told.removeprefix("notebooks/")
            spent[kind] += run.seconds
            shutil.rmtree(run.copy, ignore_errors=True)
            print(f"{faults[number].name}, {kind}: {told or 'NOT NOTICED'} ({run.seconds:.0f} s)", flush=True)
    seconds = time.monotonic() - started
    print(table(rows), f"in {seconds / 60:.0f} minutes", sep="\n")
    if not args.kind:
        from record import record

        from vit_helpers.pretrained import MEASURED  # not before, each run has a vit_helpers of its own

        last = json.loads(MEASURED.read_text(encoding="utf-8")).get("faults") if args.only else None
        facts = merged(last, rows, FAULTS, args.jobs, round(seconds))
        record("faults", facts, args.out)
        if not args.out:
            readme = ROOT / "README.md"
            readme.write_text(with_sentence(readme.read_text(encoding="utf-8"), facts), encoding="utf-8", newline="\n")
    return 0 if all(row["unit tests"] or row["notebooks"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
