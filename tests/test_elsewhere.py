"""The course away from its checkout: on Binder, from a ZIP without a network, as student version, web pages and slides."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def readme_command(start):
    """The one command of the README that starts like this, as a list of words."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(rf"`({re.escape(start)}[^`]*)`", readme)
    assert len(commands) == 1, f"README.md must give one command that starts with {start}, not {commands}"
    return shlex.split(commands[0])


def exported(kind, folder):
    """Run the README's nbconvert command for `kind` on all notebooks, into `folder`."""
    words = readme_command(f"jupyter nbconvert --to {kind} ")
    words[words.index("--output-dir") + 1] = str(folder)
    done = subprocess.run([sys.executable, "-m", "nbconvert", *words[2:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return exported("notebook", tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return exported("html", tmp_path_factory.mktemp("html"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(notebook):
    """All prose, without the code in fences, where a # is no heading."""
    prose = "\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return re.sub(r"^(```|~~~).*?^\1", "", prose, flags=re.M | re.S)


def check_headings(levels):
    assert levels[0] == 1 and levels.count(1) == 1, f"one title, at the start: {levels}"
    assert all(level <= before + 1 for before, level in pairwise(levels)), f"a level is skipped: {levels}"


@every_notebook
def test_headings_are_in_order(path):
    check_headings([len(marks) for marks in re.findall(r"^(#{1,6}) ", markdown(read(path)), re.M)])


@every_notebook
def test_web_pages_keep_alt_text_headings_answers_and_tables(path, pages):
    notebook, page = read(path), BeautifulSoup((pages / f"{path.stem}.html").read_text(encoding="utf-8"), "html.parser")
    stored = [output["metadata"]["image/png"]["alt"] for cell in notebook["cells"] for output in cell.get("outputs", [])
              if "image/png" in output.get("data", {})]
    pictures = page.find_all("img")
    assert [picture["alt"] for picture in pictures if picture["src"].startswith("data:image/png")] == stored
    assert all(len(picture.get("alt", "")) > 8 for picture in pictures)
    assert "No description has been provided" not in str(page) and not page.select(".output_stderr")
    check_headings([int(heading.name[1]) for heading in page.find_all(re.compile(r"^h[1-6]$"))])
    prose = markdown(notebook)
    assert len(page.find_all("details")) == prose.count("<details>") + len(stored) == len(page.find_all("summary"))
    assert len(page.find_all("table")) == len(re.findall(r"^\|[ :|-]*-[ :|-]*\|$", prose, re.M))


@every_notebook
def test_the_student_version_lacks_the_solutions_and_nothing_else(path, student):
    def is_solution(cell):
        return "solution" in cell["metadata"].get("tags", [])

    notebook, theirs = read(path), read(student / path.name)
    nbformat.validate(nbformat.from_dict(theirs))
    assert theirs == {**notebook, "cells": [cell for cell in notebook["cells"] if not is_solution(cell)]}
    counts = [cell["execution_count"] for cell in theirs["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "a solution is markdown, or cells of code are missing"


def test_there_are_solutions_to_leave_out():
    assert sum("solution" in cell["metadata"].get("tags", []) for path in NOTEBOOKS for cell in read(path)["cells"]) >= 4


def test_slides_start_at_the_headings(tmp_path):
    words = readme_command("jupyter nbconvert --to slides ")
    words[words.index("--output-dir") + 1] = str(tmp_path)
    words[-1] = "notebooks/02_patches.ipynb"                           # one stands for all
    subprocess.run([sys.executable, "-m", "nbconvert", *words[2:]], cwd=ROOT, check=True, capture_output=True)
    deck = BeautifulSoup((tmp_path / "02_patches.slides.html").read_text(encoding="utf-8"), "html.parser")
    chapters = deck.select(".slides > section")
    assert len(chapters) >= len(re.findall(r"^##? ", markdown(read(ROOT / words[-1])), re.M)) > 5
    assert all(chapter.find(["h1", "h2"]) for chapter in chapters)
    assert max(len(step.select(".jp-CodeCell")) for step in deck.select(".slides > section > section")) <= 3


def test_binder_installs_what_the_course_pins():
    req_file = pytest.importorskip("pip._internal.req.req_file", reason="this Python has no pip to parse requirements with")
    from pip._internal.network.session import PipSession

    folder = ROOT / ".binder"
    parsed = {part.requirement for part in req_file.parse_requirements(str(folder / "requirements.txt"), session=PipSession())}
    pinned = set(re.findall(r"^(\S+==\S+.*|(?<=-e )\.)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M))
    assert any(name.startswith("torch==") for name in pinned) and pinned <= parsed
    version = re.fullmatch(r"python-3\.(\d+)", (folder / "runtime.txt").read_text(encoding="utf-8").strip())
    assert int(version[1]) >= 10


def test_a_zip_of_the_course_runs_in_another_place_without_a_network(tmp_path):
    if not shutil.which("git"):
        pytest.skip("there is no git to make the ZIP with")
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=ROOT, capture_output=True, text=True)
    if top.returncode or Path(top.stdout.strip()).resolve() != ROOT.resolve():
        pytest.skip(f"{ROOT} is no checkout made by git")
    words = readme_command("git archive ")
    file = tmp_path / words[words.index("-o") + 1]
    words[words.index("-o") + 1] = str(file)
    subprocess.run(words, cwd=ROOT, check=True)
    assert file.stat().st_size < 60e6
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    course = tmp_path / "vision-transformers"
    assert (course / "requirements.txt").is_file()
    assert not [path for path in course.rglob("*") if path.name == ".git" or path.suffix == ".whl"]
    environment = {name: value for name, value in os.environ.items() if name != "EUROSAT_ROOT"}
    environment |= {"PYTHONPATH": str(course)}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    code = ("import nbclient, nbformat; n = nbformat.read('02_patches.ipynb', 4); "
            "n.cells.append(nbformat.v4.new_code_cell('print(vit_helpers.__file__)')); "
            "nbclient.NotebookClient(n, kernel_name='python3').execute(); print(n.cells[-1].outputs[0].text)")
    done = subprocess.run([sys.executable, "-c", code], cwd=course / "notebooks", env=environment, capture_output=True,
                          text=True)
    assert done.stdout.strip() == str(course / "vit_helpers" / "__init__.py"), done.stderr
