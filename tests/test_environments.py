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


def test_the_workflow_runs_readmes_commands_on_all_pythons_that_readme_names():
    job = yaml.load(WORKFLOW, yaml.BaseLoader)["jobs"]["tested"]       # 3.10 stays a word
    first, last = map(int, re.search(r"Python 3\.(\d+) to 3\.(\d+)", README).groups())
    assert f'requires-python = ">=3.{first}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(first, last + 1)]
    (unix,) = [line for line in README.splitlines() if line.endswith("&& pytest")]
    windows = re.search(r"\*\*Windows\*\* \(PowerShell\): `(.+?); jupyter lab", README)[1] + "; pytest"
    assert [step["run"] for step in job["steps"] if "pytest" in step.get("run", "")] == [unix, windows]


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
