"""The course away from its checkout: on Binder, from a ZIP, as student version, web pages and slides."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

pytestmark = pytest.mark.release
ROOT = Path(__file__).parents[1]
LESSONS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(ROOT.glob("notebooks/*.ipynb"))}
TEACHING = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")


def documented(start, option, place):
    """TEACHING.md's one command that starts like this, as a list of words; what it makes goes to `place`."""
    (command,) = re.findall(rf"`({re.escape(start)}[^`]*)`", TEACHING)
    words = shlex.split(command)
    words[words.index(option) + 1] = str(place)
    return words


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with all lessons as student version, web pages and slides, made as TEACHING.md says."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in ("notebook", "html", "slides"):
        words = documented(f"jupyter nbconvert --to {kind} ", "--output-dir", folder)
        done = subprocess.run([sys.executable, "-m", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr or kind == "slides", done.stderr     # reveal.js drops alt text
    return folder


@pytest.mark.parametrize("name", LESSONS)
def test_web_pages_keep_alt_text_headings_answers_and_tables(name, exported):
    cells = LESSONS[name]["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    stored = [o["metadata"]["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    page = BeautifulSoup((exported / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    alt = [picture["alt"] for picture in page.find_all("img") if picture["src"].startswith("data:image/png")]
    assert alt == stored and min(map(len, alt), default=9) > 8 and not page.select(".output_stderr")
    levels = [int(heading.name[1]) for heading in page.find_all(re.compile(r"^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1, f"one title, at the start: {levels}"
    assert all(level <= before + 1 for before, level in pairwise(levels)), f"a level is skipped: {levels}"
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert len(page.find_all("summary")) == len(page.find_all("details")) >= prose.count("<details>")
    assert len(page.find_all("table")) == len(re.findall(r"^\|[ :|-]*-[ :|-]*\|$", prose, re.M))


@pytest.mark.parametrize("name", LESSONS)
def test_student_versions_lack_the_solutions_and_nothing_else_and_slides_start_at_headings(name, exported):
    theirs = json.loads((exported / f"{name}.ipynb").read_text(encoding="utf-8"))
    nbformat.validate(nbformat.from_dict(theirs))
    kept = [cell for cell in LESSONS[name]["cells"] if "solution" not in cell["metadata"].get("tags", [])]
    assert theirs == {**LESSONS[name], "cells": kept}
    deck = BeautifulSoup((exported / f"{name}.slides.html").read_text(encoding="utf-8"), "html.parser")
    chapters = deck.select(".slides > section")
    assert len(chapters) > 3 and all(chapter.find(["h1", "h2"]) for chapter in chapters)


def test_a_zip_of_the_course_runs_in_another_place_without_a_network(tmp_path):
    file, course = tmp_path / "course.zip", tmp_path / "vision-transformers"
    subprocess.run(documented("git archive ", "-o", file), cwd=ROOT, check=True)
    assert file.stat().st_size < 60e6
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    assert "-r ../requirements.txt" in (course / ".binder" / "requirements.txt").read_text(encoding="utf-8")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    env = {**os.environ, **nowhere, "PYTHONPATH": str(course)}
    code = ("import nbclient, nbformat; n = nbformat.read('notebooks/02_patches.ipynb', 4); "
            "n.cells.append(nbformat.v4.new_code_cell('print(vit_helpers.__file__)')); "
            "nbclient.NotebookClient(n, kernel_name='python3').execute(); print(n.cells[-1].outputs[0].text)")
    done = subprocess.run([sys.executable, "-c", code], cwd=course, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(course / "vit_helpers" / "__init__.py"), done.stderr
