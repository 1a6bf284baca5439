"""The course in other places: systems, versions of Python and packages, numbers of threads; nothing outdated in our code."""

import json
import os
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import pytest
import versions
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import vit_helpers

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
OURS = [module.name for module in pkgutil.walk_packages(vit_helpers.__path__, "vit_helpers.")]
OUTDATED = [DeprecationWarning, PendingDeprecationWarning, FutureWarning, EncodingWarning]


@pytest.fixture(scope="module")
def workflow():
    # BaseLoader: `on` and 3.10 stay the words that they are.
    return yaml.load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"), yaml.BaseLoader)


def commands(job):
    return [step["run"] for step in job["steps"] if "pytest" in step.get("run", "")]


def test_the_workflow_runs_on_every_change_and_once_a_week_and_may_only_read(workflow):
    assert set(workflow["on"]) == {"push", "pull_request", "schedule", "workflow_dispatch"}
    (schedule,) = workflow["on"]["schedule"]
    minute, hour, day, month, weekday = schedule["cron"].split()
    assert minute.isdigit() and hour.isdigit() and (day, month) == ("*", "*") and re.fullmatch("[0-6]", weekday)
    assert workflow["permissions"] == {"contents": "read"} and workflow["concurrency"]["cancel-in-progress"] == "true"
    for job in workflow["jobs"].values():
        assert 10 < int(job["timeout-minutes"]) <= 90 and job["strategy"]["fail-fast"] == "false"
        assert "permissions" not in job
        assert job["steps"][0]["with"]["persist-credentials"] == "false"


def test_the_workflow_runs_on_all_systems_and_pythons_that_the_course_promises(workflow):
    first = int(re.search(r'requires-python = ">=3\.(\d+)"', PROJECT)[1])
    promised = re.search(r"Python 3\.(\d+) to 3\.(\d+)", README)
    assert int(promised[1]) == first
    pythons = [f"3.{minor}" for minor in range(first, int(promised[2]) + 1)]
    for name, job in workflow["jobs"].items():
        matrix = job["strategy"]["matrix"]
        assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"] and job["runs-on"] == "${{ matrix.os }}"
        assert matrix["python"] == (pythons[:1] if name == "lowest" else pythons)
        setup = next(step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@"))
        assert setup["python-version"] == "${{ matrix.python }}" and setup["cache"] == "pip"
        assert (ROOT / setup["cache-dependency-path"]).is_file()


def test_the_workflow_runs_readmes_commands(workflow):
    (unix,) = [line for line in README.splitlines() if line.endswith("&& pytest")]
    windows = re.search(r"\*\*Windows\*\* \(PowerShell\): `(.+?); jupyter lab", README)[1] + "; pytest"
    assert commands(workflow["jobs"]["tested"]) == [unix, windows]
    shells = {step["if"]: step["shell"] for step in workflow["jobs"]["tested"]["steps"] if "pytest" in step.get("run", "")}
    assert shells == {"runner.os != 'Windows'": "bash", "runner.os == 'Windows'": "pwsh"}


def test_the_workflow_installs_the_lowest_and_the_newest_versions_that_the_project_allows(workflow):
    for name, resolution in (("lowest", "lowest-direct"), ("newest", "highest")):
        (command,) = commands(workflow["jobs"][name])
        # --no-config: the versions that [tool.uv] holds still are those of requirements.txt.
        assert f"uv pip install --system --no-config --resolution {resolution} -e \".[course,test]\"" in command
        assert command.startswith("pip install uv && ") and command.endswith(" && pytest")
    bounds = re.findall(r'^    "([\w-]+)([^"]*)",$', PROJECT, re.M)
    assert len(bounds) > 15 and all(re.fullmatch(r">=[\d.]+", bound) for _, bound in bounds), "lower bounds only"


@pytest.mark.parametrize("category", OUTDATED)
def test_what_is_outdated_in_our_code_is_an_error_and_in_others_not(category):
    others = ["__main__", *(path.stem for path in (ROOT / "tests").rglob("*.py"))]
    for module in OURS if category is EncodingWarning else [*OURS, *others]:
        with pytest.raises(category, match="old"):
            warnings.warn_explicit("old", category, "file.py", 1, module=module)
    with warnings.catch_warnings(record=True) as seen:       # theirs is for them to mend
        warnings.warn_explicit("old", category, "file.py", 1, module="torch.nn.functional")
    assert len(seen) <= 1


@pytest.mark.parametrize("module", ["__main__", *OURS[:2], OURS[-1]])
def test_what_is_outdated_in_a_notebook_or_in_a_command_is_an_error_too(module):
    code = f"import warnings; warnings.warn_explicit('old', DeprecationWarning, 'file.py', 1, module={module!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "DeprecationWarning: old" in done.stderr


def test_a_cell_of_a_notebook_cannot_use_what_is_outdated():
    cell = nbformat.v4.new_code_cell("import warnings\nwarnings.warn('old', FutureWarning)")
    with pytest.raises(CellExecutionError) as caught:
        NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    assert (caught.value.ename, caught.value.evalue) == ("FutureWarning", "old")


TRAINING = """
import json, sys
import torch
from vit_helpers import GOOD, PLAIN, Tiles, VisionTransformer, evaluate, fit
from vit_helpers.synthetic import synthetic_tiles
torch.set_num_threads(int(sys.argv[1]))
assert torch.get_num_threads() == int(sys.argv[1])
train, test = Tiles(*synthetic_tiles(300)).split()
found = []
for recipe in (PLAIN, GOOD):
    torch.manual_seed(0)
    model = VisionTransformer(**recipe.model)
    history = fit(model, train, test, epochs=2, recipe=recipe)
    history.seconds = [0.0] * len(history)
    result = evaluate(model, test)
    found.append([str(history), [f"{loss:.3f}" for loss in history.step_loss], f"{result.accuracy:.1%} {result.loss:.3f}",
                  result.confusion.tolist()])
print(json.dumps(found))
"""


def test_training_prints_the_same_with_any_number_of_threads():
    found = {}
    for threads in (1, 2, 4):
        words = [sys.executable, "-c", TRAINING, str(threads)]
        # Passive: where tests run side by side, threads that wait must not take the time of those that work.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        found[threads] = json.loads(done.stdout.splitlines()[-1])
    assert found[1] == found[2] == found[4]


def test_runs_are_counted_and_shown(tmp_path):
    report = '<testsuites><testsuite tests="1300" skipped="20" failures="3" errors="2"/></testsuites>'
    (tmp_path / "report.xml").write_text(report, encoding="utf-8")
    found = versions.counts(tmp_path / "report.xml")
    assert found == {"passed": 1275, "skipped": 20, "failed": 5}
    row = {"versions": "lowest", "python": "3.10", **found, "seconds": 95, "packages": dict.fromkeys(versions.SHOWN, "1.2+cpu")}
    assert versions.table([row]).splitlines()[2] == "| lowest | 3.10 | 1.2 | 1.2 | 1.2 | 1.2 | 1.2 | 1,275 | 20 | 5 | 2 |"


def test_readme_shows_the_recorded_runs_and_those_with_the_lowest_versions_had_them():
    assert versions.with_table(README, versions.known()) == README
    bounds = dict(re.findall(r'^    "([\w-]+)>=([\d.]+)",$', PROJECT, re.M))
    for row in versions.known():
        assert row["passed"] > 1000 and row["failed"] == 0
        if row["versions"] == "lowest":                      # the first of its line: 1.11.1 where there is no 1.11.0
            assert all(f"{row['packages'][name]}.".startswith(f"{bounds[name]}.") for name in versions.SHOWN)
