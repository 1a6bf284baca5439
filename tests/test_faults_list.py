"""The listed faults are still mistakes that can be made: each text is there once, and what replaces it is other, valid code."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import faults
import nbformat
import pytest
from fault_list import FAULTS, SEEN_FIRST_BY

from vit_helpers.pretrained import MEASURED

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "vit_helpers"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_made_and_changes_the_code(fault):
    text = (PACKAGE / fault.file).read_text(encoding="utf-8")
    times = text.count(fault.old)
    assert times == 1, f"{fault.file} has the text of this fault {times} times; mend it in tests/benchmarks/fault_list.py"
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(text.replace(fault.old, fault.new)))


def test_at_least_sixty_faults_with_names_of_their_own_in_all_parts_of_the_package():
    names = [fault.name for fault in FAULTS]
    assert len(names) >= 60 and len(set(names)) == len(names)
    without = {"__init__.py", "slides.py", "checks", "plotting", "heads"}
    modules = {path.name for path in PACKAGE.glob("*.py")} - without
    assert modules <= {fault.file for fault in FAULTS}
    assert {f"{folder}" for folder in ("checks", "plotting", "heads")} <= {fault.file.split("/")[0] for fault in FAULTS}


def test_the_tests_that_are_to_see_faults_first_are_there():
    there = {path.stem for path in [*TESTS.glob("test_*.py"), *(TESTS.parent / "notebooks").glob("*.ipynb")]}
    assert {path for paths in SEEN_FIRST_BY.values() for path in paths} <= there


def test_a_fault_is_given_to_those_who_call_its_function_the_likely_and_the_quick_first(monkeypatch):
    monkeypatch.setattr(faults, "NOTEBOOKS", 40)
    fault = next(fault for fault in FAULTS if fault.file == "patches.py")
    text = "import a\n\n\n@a.b\ndef outer():\n    def inner():\n        return 1\n    return 2\n"
    assert [faults.function_of(text, text.index(word)) for word in ("import", "return 1", "return 2")] == [0, 6, 4]
    here = (PACKAGE / fault.file).read_text(encoding="utf-8")
    function = f"patches.py:{faults.function_of(here, here.index(fault.old))}"
    seen = {"tests/test_model.py": (1.0, [function]), "tests/test_data.py": (3.0, ["data.py:1"]),
            "tests/test_patches.py": (2.0, [function]), "notebooks/02.ipynb": (9.0, [function]),
            "notebooks/03.ipynb": (4.0, ["patches.py:0", function])}
    assert faults.files_for(fault, seen, here) == [["tests/test_patches.py", "tests/test_model.py"],
                                                   ["notebooks/03.ipynb", "notebooks/02.ipynb"]]
    slow = {f"notebooks/{name}.ipynb": (float(seconds), [function]) for name, seconds in
            {"02_patches": 25, "06": 10, "07": 5, "08": 12, "09": 13}.items()}
    assert faults.files_for(fault, slow, here)[1] == [f"notebooks/{name}.ipynb" for name in ("02_patches", "07", "06")]
    cell = "09.ipynb::Cell 3"                                # what noticed the fault the last time comes first
    assert faults.files_for(fault, slow, here, cell)[1] == [f"notebooks/{name}.ipynb" for name in ("09", "02_patches", "07")]
    long = {"notebooks/08.ipynb": (61.0, [function])}        # only then, if it takes minutes
    assert [faults.files_for(fault, long, here, cell)[1] for cell in ("", "08.ipynb::Cell 3")] == [[], list(long)]


RUNS = """
import json, sys, time
from pathlib import Path
import faults

copy, told = Path(sys.argv[1]), {}
for file, seconds, first in (
        ("tests/test_right.py", 300, "tests/test_right.py::test_gone"), ("tests/test_wrong.py", 300, None),
        ("tests/test_wrong.py", 300, "tests/test_wrong.py::test_two"), ("tests/test_endless.py", 1, None),
        ("right.ipynb", 300, None), ("wrong.ipynb", 300, None)):
    run = faults.Run(copy, [file], seconds, first=first)
    while (end := run.found()) is None:
        time.sleep(0.05)
    told[first or file] = end
print(json.dumps(told))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked, which Windows cannot")
def test_a_run_has_the_package_of_its_copy_and_tells_its_first_failure(tmp_path):
    copy = tmp_path / "copy"
    for folder in ("vit_helpers", "tests"):
        (copy / folder).mkdir(parents=True)
    (copy / "vit_helpers/__init__.py").write_text("ANSWER = 42\n")
    shutil.copy(TESTS / "nbval_sanitize.cfg", copy / "tests")
    head = "import vit_helpers\n\n\ndef test_one():\n    assert vit_helpers.ANSWER == "
    (copy / "tests/test_right.py").write_text(head + "42\n")
    (copy / "tests/test_wrong.py").write_text(head + "7\n\n\ndef test_two():\n    assert False\n")
    (copy / "tests/test_endless.py").write_text("import time\n\ntime.sleep(600)\n")
    for name, answer in (("right", "42"), ("wrong", "7")):
        cell = nbformat.v4.new_code_cell("import vit_helpers\nprint(vit_helpers.ANSWER)", execution_count=1, outputs=[
            nbformat.v4.new_output("stream", text=answer + "\n")])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), copy / f"{name}.ipynb")
    done = subprocess.run([sys.executable, "-c", RUNS, str(copy)], cwd=TESTS / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"tests/test_right.py::test_gone": "",
                                       "tests/test_wrong.py": "tests/test_wrong.py::test_one",
                                       "tests/test_wrong.py::test_two": "tests/test_wrong.py::test_two",
                                       "tests/test_endless.py": "did not end", "right.ipynb": "", "wrong.ipynb":
                                       "wrong.ipynb::Cell 0"}
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]            # nothing is left of them


def test_readme_states_what_the_last_run_showed():
    readme = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    facts = json.loads(MEASURED.read_text(encoding="utf-8")).get("faults")
    assert readme == faults.with_sentence(readme, facts), "write it anew: python tests/benchmarks/faults.py"
    assert facts is None or facts["faults"] == len(facts["rows"]) == facts["caught by"]["together"] >= 60
    three = {"faults": 3, "caught by": {"unit tests": 2, "notebooks alone": 1, "together": 3}, "seconds": 2990, "jobs": 2,
             "shown": 75, "again": 0}
    assert faults.sentence(three) == ("Of 3 mistakes the unit tests notice 2, the notebooks alone 1 (each mistake is shown to "
                                      "about 75 seconds of them), both together 3. It took 50 minutes, 2 at a time.")
    assert faults.sentence({**three, "again": 2}).endswith("2 at a time, 2 of them tried again after a change of the tests.")


def test_what_only_some_faults_showed_replaces_their_rows():
    rows = [{"fault": name, "unit tests": "", "notebooks": ""} for name in "abc"]
    list_ = [SimpleNamespace(name=name) for name in "abc"]
    last = faults.merged(None, rows, list_, 2, 100)
    assert last["caught by"]["together"] == 0 and last["shown"] == faults.NOTEBOOKS
    new = faults.merged({**last, "shown": 9}, [{"fault": "b", "unit tests": "x", "notebooks": ""}], list_, 2, 20)
    assert [row["fault"] for row in new["rows"]] == ["a", "b", "c"] and new["rows"][1]["unit tests"] == "x"
    assert (new["caught by"]["together"], new["seconds"], new["shown"], new["faults"], new["again"]) == (1, 120, 9, 3, 1)
    with pytest.raises(SystemExit, match="no run has tried a, c; leave --only out"):
        faults.merged(None, rows[1:2], list_, 2, 20)


def test_shares_and_table_of_a_result():
    rows = [{"fault": "a", "file": "model.py", "unit tests": "tests/test_model.py::test_x", "notebooks": ""},
            {"fault": "b", "file": "model.py", "unit tests": "", "notebooks": "05.ipynb::Cell 3"},
            {"fault": "c", "file": "model.py", "unit tests": None, "notebooks": None},
            {"fault": "d", "file": "model.py", "unit tests": "did not end", "notebooks": "05.ipynb::Cell 3"}]
    assert faults.shares(rows) == {"unit tests": 2, "notebooks alone": 2, "together": 3}
    text = faults.table(rows)
    assert "caught by together: 3 of 4 (75%)" in text and "05.ipynb::Cell 3" in text.splitlines()[1]


