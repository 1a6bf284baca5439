"""Publishing: the address is in all places or in none, and the setup cell brings the course to a Python that lacks it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import torch

import vit_helpers.__main__ as command_line
from vit_helpers.publish import ROOT, places, publish, setup_cell

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GITHUB, OTHER = "https://github.com/someone/vit-course", "https://gitlab.com/group/part/vit-course"


def setup_source(notebook):
    return "".join(next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["source"])


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def course(tmp_path):
    """A copy of what publish() writes to, three notebooks only, without an address."""
    root = tmp_path / "course"
    (root / "notebooks").mkdir(parents=True)
    for name in ("00_start_here", "02_patches", "05_self_attention"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", root / "notebooks")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root)
    publish("", root=root)
    return root


def test_every_notebook_has_the_setup_cell_of_the_package():
    cells = [setup_source(json.loads(path.read_text(encoding="utf-8"))) for path in NOTEBOOKS]
    address = re.search(r'^ADDRESS = "(.*)"$', cells[0], re.M)
    assert address and cells == [setup_cell(address[1])] * len(cells), "run python -m vit_helpers publish"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    repository = re.search(r'^(?:# )?Repository = "(.*)"$', project, re.M)[1]
    assert repository in address[1] and bool(repository) == bool(address[1])


def test_publishing_puts_the_address_everywhere_and_taking_it_out_gives_back_every_byte(course):
    before = contents(course)
    changed = publish(GITHUB, root=course)
    after = contents(course)
    assert sorted(path.relative_to(course) for path in changed) == sorted(before)
    assert publish(GITHUB + ".git", root=course) == publish(GITHUB + "/", root=course) == []      # the same address
    readme = after[Path("README.md")].decode()
    assert f'\nRepository = "{GITHUB}"\n' in after[Path("pyproject.toml")].decode()
    assert readme.count("colab-badge.svg") == 1
    assert "(https://mybinder.org/v2/gh/someone/vit-course/main?labpath=notebooks/00_start_here.ipynb)" in readme
    for path in (course / "notebooks").iterdir():
        notebook, old = json.loads(path.read_text(encoding="utf-8")), json.loads(before[path.relative_to(course)])
        nbformat.validate(nbformat.from_dict(notebook))
        last = "".join(notebook["cells"][0]["source"]).splitlines()[-1]
        assert last.startswith("[![Open in Colab](") and f"/github/someone/vit-course/blob/main/notebooks/{path.name})" in last
        assert setup_source(notebook) == setup_cell(f"{GITHUB}/archive/refs/heads/main.zip")
        same = [cell for cell, other in zip(notebook["cells"], old["cells"], strict=True) if cell == other]
        assert len(same) == len(old["cells"]) - 2 and notebook["metadata"] == old["metadata"]
    publish(OTHER, branch="autumn/term", root=course)
    everything = b"".join(contents(course).values()).decode()
    assert f'ADDRESS = \\"git+{OTHER}@autumn/term\\"' in everything and "someone" not in everything
    assert "colab-badge" not in everything and "mybinder.org/v2/git/https%3A%2F%2Fgitlab.com%2Fgroup%2F" in everything
    publish("", root=course)
    assert contents(course) == before


def test_outputs_and_everything_but_the_marks_stay_as_they_were(course):
    for path in (course / "notebooks").iterdir():
        new, old = (json.loads(file.read_text(encoding="utf-8")) for file in (path, ROOT / "notebooks" / path.name))
        for cell, other in zip(new["cells"], old["cells"], strict=True):
            assert cell.get("outputs") == other.get("outputs") and cell["id"] == other["id"]
            assert {**cell["metadata"], "slideshow": 0} == {**other["metadata"], "slideshow": 0} or cell["cell_type"] == "code"
            assert cell["source"] == other["source"] or cell["cell_type"] == "code" or cell is new["cells"][0]


@pytest.mark.parametrize("url", [
    "http://github.com/a/b", "https://github.com/a", "https://github.com/a/b/tree/main", "https://me:secret@github.com/a/b",
    "git@github.com:a/b.git", "https://host/a?b=c", "https://host/a b", 'https://host/a"b', "file:///etc", "no/such/folder",
    "--upgrade", "https://github.com/a/../b", "github.com/a/b"])
def test_what_is_no_address_is_refused_and_nothing_written(course, url):
    before = contents(course)
    with pytest.raises(ValueError, match=r"is no address of a course; give https://github\.com/OWNER/REPO") as problem:
        publish(url, root=course)
    assert repr(url) in str(problem.value) and contents(course) == before


def test_what_is_no_branch_or_no_checkout_is_refused(course, tmp_path):
    with pytest.raises(ValueError, match="not the name of a branch"):
        publish(GITHUB, branch="a b", root=course)
    with pytest.raises(ValueError, match="no checkout of the course"):
        publish(GITHUB, root=tmp_path)
    (course / "README.md").write_text("no place for badges\n", encoding="utf-8")
    before = contents(course)
    with pytest.raises(ValueError, match="must have the place for the address once, not 0 times"):
        publish(GITHUB, root=course)
    assert contents(course) == before


def test_the_command(course, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "publish", partial(publish, root=course))
    monkeypatch.setattr(sys, "argv", ["vit_helpers", "publish", GITHUB, "--branch", "autumn"])
    assert command_line.main() == 0
    printed, _ = capsys.readouterr()
    assert printed.count("written: ") == 5 and "Commit and push" in printed
    assert f"{GITHUB}/archive/refs/heads/autumn.zip" in (course / "notebooks" / "02_patches.ipynb").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["vit_helpers", "publish", "https://github.com/someone"])
    assert command_line.main() == 2
    assert capsys.readouterr().err.startswith("error: 'https://github.com/someone' is no address of a course")


# The setup cell, in a Python that has everything but the course.

@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What a fork holds that pip needs."""
    root = tmp_path_factory.mktemp("fork") / "course"
    shutil.copytree(ROOT / "vit_helpers", root / "vit_helpers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.fixture
def bare(tmp_path):
    """run(code) in a new virtual environment that sees every package of this Python but vit_helpers, and no network."""
    found = {part.name: part.version for part in metadata.distributions() if part.name in ("pip", "setuptools")}
    if "pip" not in found or int(found.get("setuptools", "0").split(".")[0]) < 77:
        pytest.skip("installing the course without a network needs pip, and setuptools 77 or later: pip install -U setuptools")
    home, seen = tmp_path / "bare", tmp_path / "seen"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    seen.mkdir()
    # Links rather than the folders themselves: there, pip and Python would find the course, editable or not.
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), Path(torch.__file__).parents[1]}:
        for path in Path(folder).iterdir():
            if "vit_helpers" not in path.name and not (seen / path.name).exists():
                (seen / path.name).symlink_to(path)
    packages = next(home.rglob("site-packages"))
    (packages / "seen.pth").write_text(str(seen), encoding="utf-8")
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "EUROSAT_"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_LOG": str(tmp_path / "pip.log"), "PIP_CONFIG_FILE": os.devnull,
                    "PIP_NO_BUILD_ISOLATION": "0"}                       # pip reads it the wrong way round: no isolation

    def run(code):
        return subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    run.packages = packages
    return run


def test_the_setup_cell_installs_the_course_and_leaves_torch_alone(bare, source, tmp_path):
    facts = "import torch, torchvision; print([(m.__version__, m.__file__) for m in (torch, torchvision)])\n"
    done = bare(f"{facts}\nimport vit_helpers")
    assert "No module named 'vit_helpers'" in done.stderr
    before = done.stdout
    _, address, _, _ = places(str(source))
    ask = "print(vit_helpers.__file__, vit_helpers.load_pretrained('synthetic').config['depth'])"
    done = bare(f"{setup_cell(address)}\n{ask}")
    assert done.stderr == "" and done.stdout.split() == [str(bare.packages / "vit_helpers" / "__init__.py"), "4"]
    log = (tmp_path / "pip.log").read_text(encoding="utf-8")
    assert "Requirement already satisfied: torch>=" in log
    assert not re.search(r"(Collecting|Downloading|Uninstalling|uninstall:) torch", log)
    assert re.findall(r"Successfully installed (.*)", log) in (["vit_helpers-0.1.0"], ["vit-helpers-0.1.0"])
    done = bare(setup_cell("/no/such/folder") + "\n" + facts)                # once there, nothing is installed again
    assert str(tmp_path) in before and (done.stdout, done.stderr) == (before, "")


@pytest.mark.parametrize("address", ["/no/such/folder", "https://vit.invalid/archive/refs/heads/main.zip",
                                     "git+https://127.0.0.1:9/someone/course@main"])
def test_an_address_that_does_not_exist_is_reported(bare, address):
    before = sorted(path.name for path in bare.packages.iterdir())
    done = bare(setup_cell(address))
    assert done.returncode == 1 and done.stdout == ""
    assert "ImportError: " in done.stderr and f"The course could not be installed from {address}" in done.stderr
    assert done.stderr.strip().endswith("Check the network and the address, then run this cell again.")
    assert sorted(path.name for path in bare.packages.iterdir()) == before


def test_without_an_address_the_setup_cell_says_what_to_do(bare):
    done = bare(setup_cell(""))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: The course is not installed in this Python. In its folder run: pip install -r requirements.txt "
        "(for Colab, its owner publishes it first: see README.md)")


def test_a_torch_that_is_too_old_is_kept_and_reported(bare, source):
    project = source / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(text.replace("torch>=2.9", "torch>=999"), encoding="utf-8")
    try:
        done = bare(setup_cell(source.as_posix()))
    finally:
        project.write_text(text, encoding="utf-8")
    assert done.returncode == 1 and "depends on torch>=999" in done.stderr and "(constraint) torch==" in done.stderr
    assert not (bare.packages / "vit_helpers").exists()


def test_a_whole_lesson_runs_where_only_its_notebook_was_opened(bare, source, tmp_path):
    lesson = tmp_path / "02_patches.ipynb"
    notebook = json.loads((ROOT / "notebooks" / lesson.name).read_text(encoding="utf-8"))
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["source"] = setup_cell(source.as_posix())
    lesson.write_text(json.dumps(notebook), encoding="utf-8")
    done = bare("import nbclient, nbformat; notebook = nbformat.read('02_patches.ipynb', 4); "
                "nbclient.NotebookClient(notebook, kernel_name='python3').execute(); "
                "print([o for c in notebook.cells for o in c.get('outputs', []) if o.get('name') == 'stderr'])")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert (bare.packages / "vit_helpers").is_dir()                        # its kernel ran there
