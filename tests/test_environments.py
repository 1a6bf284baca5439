"""The course in other places: systems, versions, numbers of threads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.release
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")


def test_the_workflow_runs_readmes_commands_and_the_lowest_and_newest_versions_everywhere():
    jobs = yaml.load(WORKFLOW, yaml.BaseLoader)["jobs"]                # 3.10 stays a word
    first, last = map(int, re.search(r"Python 3\.(\d+) to 3\.(\d+)", README).groups())
    assert f'requires-python = ">=3.{first}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    commands = {}
    for name, job in jobs.items():
        pythons = [f"3.{minor}" for minor in range(first, first + 1 if name == "lowest" else last + 1)]
        systems = ["ubuntu-latest", "macos-latest", "windows-latest"]
        assert job["strategy"]["matrix"] == {"os": systems, "python": pythons}
        setup = next(step["with"] for step in job["steps"] if "setup-python@" in step.get("uses", ""))
        assert setup["python-version"] == "${{ matrix.python }}" and job["runs-on"] == "${{ matrix.os }}"
        commands[name] = [step["run"] for step in job["steps"] if "pytest" in step.get("run", "")]
    (unix,) = [line for line in README.splitlines() if line.endswith("&& pytest")]
    windows = re.search(r"\*\*Windows\*\* \(PowerShell\): `(.+?); jupyter lab", README)[1] + "; pytest"
    assert commands["tested"] == [unix, windows] and commands["release"][0].endswith("&& pytest -m release")
    for name, resolution in (("lowest", "lowest-direct"), ("newest", "highest")):
        assert f'--no-config --resolution {resolution} -e ".[course,test]" && pytest' in commands[name][0]


TRAINING = """
import sys, torch
from vit_helpers import GOOD, PLAIN, Tiles, VisionTransformer, evaluate, fit
from vit_helpers.synthetic import synthetic_tiles
torch.set_num_threads(int(sys.argv[1]))
train, test = Tiles(*synthetic_tiles(300)).split()
for recipe in (PLAIN, GOOD):
    torch.manual_seed(0)
    model = VisionTransformer(**recipe.model)
    history = fit(model, train, test, epochs=2, recipe=recipe)
    result = evaluate(model, test)
    print([f"{loss:.3f}" for loss in history.step_loss], f"{result.accuracy:.1%} {result.loss:.3f}")
"""


def test_training_prints_the_same_with_any_number_of_threads():
    found = set()
    for threads in ("1", "2", "4"):
        env = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "VIT_SMOKE": "0"}
        words = [sys.executable, "-c", TRAINING, threads]
        done = subprocess.run(words, env=env, capture_output=True, text=True)
        found.add(tuple(line for line in done.stdout.splitlines() if line.startswith("[")))    # no times
    assert len(found) == 1 and len(found.pop()) == 2, done.stderr
