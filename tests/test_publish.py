"""Publishing: the address is in all places or none, and the setup cell installs the course from there."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from vit_helpers.publish import ROOT, publish

pytestmark = pytest.mark.release
FILES = ("notebooks/00_start_here.ipynb", "notebooks/02_patches.ipynb", "pyproject.toml", "README.md")
GITHUB, OTHER = "https://github.com/someone/vit-course", "https://gitlab.com/group/part/vit-course"


def setup_source(text):
    return next("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def setup_cell(address):
    source = setup_source((ROOT / FILES[0]).read_text(encoding="utf-8"))
    return re.sub(r'(?m)^ADDRESS = ".*"(?=  #)', f'ADDRESS = "{address}"', source)


def contents(root):
    return {name: (root / name).read_text(encoding="utf-8") for name in FILES}


@pytest.fixture
def course(tmp_path):
    """A copy of what publish() writes to, two notebooks only, without an address."""
    root = tmp_path / "course"
    (root / "notebooks").mkdir(parents=True)
    for name in FILES:
        shutil.copy(ROOT / name, root / name)
    publish("", root=root)
    return root


def test_publishing_puts_the_address_everywhere_and_taking_it_out_gives_back_every_byte(course):
    before = contents(course)
    assert set(publish(GITHUB, root=course)) == {course / name for name in FILES}
    assert publish(f"{GITHUB}.git", root=course) == publish(f"{GITHUB}/", root=course) == []  # the same
    after = contents(course)
    assert f'\nRepository = "{GITHUB}"\n' in after["pyproject.toml"]
    assert "(https://mybinder.org/v2/gh/someone/vit-course/main?labpath=notebooks/00_" in after["README.md"]
    for name in FILES[:2]:
        notebook, old = json.loads(after[name]), json.loads(before[name])
        last = notebook["cells"][0]["source"][-1]
        assert last.startswith("[![Open in Colab]") and f"/someone/vit-course/blob/main/{name})" in last
        assert setup_source(after[name]) == setup_cell(f"{GITHUB}/archive/refs/heads/main.zip")
        same = [cell for cell, other in zip(notebook["cells"], old["cells"], strict=True) if cell == other]
        assert len(same) == len(old["cells"]) - 2 and notebook["metadata"] == old["metadata"]
    publish(GITHUB, branch="spring", root=course)
    assert f"{GITHUB}/archive/refs/heads/spring.zip" in "".join(contents(course).values())
    publish(OTHER, branch="autumn/term", root=course)
    everything = "".join(contents(course).values())
    assert f"git+{OTHER}@autumn/term" in everything and "mybinder.org/v2/git/https%3A%2F%2F" in everything
    assert "colab-badge" not in everything and "someone/vit" not in everything
    publish("", root=course)
    assert contents(course) == before


@pytest.fixture
def bare(tmp_path):
    """run(input=code) in a new virtual environment that sees all packages but the course; no network."""
    home, seen = tmp_path / "bare", tmp_path / "seen"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    seen.mkdir()
    # Links rather than the folder itself: there, pip and Python would find the course, editable or not.
    for path in Path(torch.__file__).parents[1].iterdir():
        if "vit_helpers" not in path.name:
            (seen / path.name).symlink_to(path)
    next(home.rglob("site-packages")).joinpath("seen.pth").write_text(str(seen), encoding="utf-8")
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_BUILD_ISOLATION": "0"}   # 0: none
    return partial(subprocess.run, [python, "-"], env=env, cwd=tmp_path, capture_output=True, text=True)


def test_the_setup_cell_installs_the_course_and_leaves_torch_alone(bare, tmp_path):
    ignored = shutil.ignore_patterns(".*", "notebooks", "tests")
    source = shutil.copytree(ROOT, tmp_path / "fork", ignore=ignored)
    facts = "import torch, torchvision; print([(m.__version__, m.__file__) for m in (torch, torchvision)])\n"
    before = bare(input=facts + "import vit_helpers")
    assert "No module named 'vit_helpers'" in before.stderr and str(tmp_path) in before.stdout
    assert "pip install -r requirements.txt" in bare(input=setup_cell("")).stderr.splitlines()[-1]
    gone = bare(input=setup_cell("git+https://127.0.0.1:9/someone/course@main"))
    assert "could not be installed from git+https://127.0.0.1:9/" in gone.stderr.splitlines()[-1]
    ask = "\nimport vit_helpers; print(vit_helpers.load_pretrained('synthetic').training)"
    done = bare(input=setup_cell(f"{source}") + ask)
    assert (done.stdout, done.stderr) == ("False\n", "")
    again = bare(input=f"{setup_cell('/no/such/folder')}\n{facts}")   # once there, nothing is installed again
    assert (again.stdout, again.stderr) == (before.stdout, "")
