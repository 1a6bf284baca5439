"""What nbval does not see: the notebook files as a reader opens them, and the pages made from them."""

import html
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import lessons
import pytest
from record import IN_LESSONS, OTHERS

from vit_helpers.pretrained import MEASURED

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))
KNOWN_TAGS = {"nbval-ignore-output", "nbval-skip", "exercise", "solution", "slider"}
COURSE = ["00_start_here", "01_eurosat_data", "02_patches", "03_patch_embeddings", "04_positional_encoding",
          "05_self_attention", "06_encoder", "07_vision_transformer", "08_training", "09_evaluation",
          "10_attention_maps", "11_what_matters", "12_pretrained", "13_segmentation", "14_detection",
          "15_video", "16_generation", "17_scaling"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def outputs(notebook):
    return [output for cell in cells(notebook, "code") for output in cell["outputs"]]


def tags(cell):
    return cell["metadata"].get("tags", [])


def printed(cell):
    """All that a cell printed or returned, as one text."""
    return "\n".join("".join(output.get("text", output.get("data", {}).get("text/plain", "")))
                     for output in cell["outputs"])


def has_picture(cell):
    return any("image/png" in output.get("data", {}) for output in cell["outputs"])


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_course_is_complete():
    assert [path.stem for path in NOTEBOOKS] == COURSE


def test_executed_once_from_top_to_bottom_without_errors(notebook):
    counts = [cell["execution_count"] for cell in cells(notebook, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert all(source(cell).strip() for cell in cells(notebook, "code")), "an empty code cell"
    assert not [output for output in outputs(notebook)
                if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_only_known_tags_and_no_widget_state(notebook):
    assert {tag for cell in notebook["cells"] for tag in tags(cell)} <= KNOWN_TAGS
    assert "widgets" not in notebook["metadata"]


def test_figures_are_png_with_alt_text_that_is_also_told_below(notebook):
    """Below, because JupyterLab shows no alt text."""
    kinds = [kind for output in outputs(notebook) for kind in output.get("data", {})]
    assert set(kinds) <= {"text/plain", "image/png", "text/html"}
    figures = 0
    for cell in cells(notebook, "code"):
        for picture, words in itertools.pairwise(cell["outputs"]):
            if "image/png" in picture.get("data", {}):
                alt = picture["metadata"]["image/png"]["alt"]
                summary = "<details><summary>The figure in words</summary>"
                assert len(alt) > 30
                assert "".join(words["data"]["text/html"]) == f"{summary}{html.escape(alt)}</details>"
                figures += 1
    assert figures == kinds.count("image/png") == kinds.count("text/html")


def test_small_enough_to_open_anywhere(path):
    assert path.stat().st_size < 1_500_000


def test_starts_with_a_promise_and_the_setup_cell(path, notebook):
    first, setup = source(notebook["cells"][0]), source(cells(notebook, "code")[0])
    assert re.match(rf"# {path.stem[:2]} · \S", first)
    assert "**Minutes:**" in first and "**You need:**" in first
    reference = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    assert setup == source(cells(reference, "code")[0])


def test_ends_with_questions_a_ledger_and_the_way_on(path, notebook):
    prose = "\n".join(source(cell) for cell in cells(notebook, "markdown"))
    if path.stem != COURSE[0]:                    # 00 is the map, not a lesson
        for heading in ("Three quick questions", "What you built", "Further reading"):
            assert f"## {heading}" in prose, heading
        assert prose.count("<details>") == prose.count("</details>") >= 3
    place = COURSE.index(path.stem)
    if place + 1 < len(COURSE):
        assert f"({COURSE[place + 1]}.ipynb)" in prose


def test_small_steps(notebook):
    in_a_row = 0
    for cell in notebook["cells"]:
        in_a_row = in_a_row + 1 if cell["cell_type"] == "code" else 0
        assert in_a_row <= 3, f"more than three code cells without a word: {source(cell)}"
        if cell["cell_type"] == "code":
            assert len([line for line in source(cell).splitlines() if line.strip()]) <= 30


def test_a_control_is_not_stored_and_has_its_picture_below(notebook):
    for cell, following in itertools.pairwise([*cells(notebook, "code"), None]):
        if "slider" in tags(cell):
            assert not cell["outputs"] and "nbval-ignore-output" in tags(cell)
            assert following and has_picture(following)


def test_strict_cells_print_only_what_is_the_same_everywhere(notebook):
    strict = [cell for cell in cells(notebook, "code") if "nbval-ignore-output" not in tags(cell)]
    assert any(printed(cell).strip() for cell in strict), "nothing is compared"
    for cell in strict:
        assert not has_picture(cell), source(cell)
        assert not re.search(r"\d\.\d{4,}|grad_fn|0x[0-9a-f]{6}", printed(cell)), printed(cell)


def test_no_magics_and_no_paths_of_one_machine(notebook):
    code = "\n".join(source(cell) for cell in cells(notebook, "code"))
    assert not re.search(r"^\s*[%!]", code, re.M)
    everything = "\n".join([*map(source, notebook["cells"]), *map(printed, cells(notebook, "code"))])
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/|[A-Z]:\\\\", everything)


def test_the_slides_start_at_the_headings(notebook):
    for cell in cells(notebook, "markdown"):
        chapter = re.search(r"\A# |(?m:^## )", source(cell))
        wanted = "slide" if chapter else "subslide"
        assert cell["metadata"].get("slideshow") == {"slide_type": wanted}, source(cell)[:80]


PAGES = [*NOTEBOOKS, *(ROOT / name for name in (
    "README.md", "notebooks/TEACHING.md", "tests/benchmarks/RESULTS.md", ".github/SECURITY.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_inside_the_repository_are_alive(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join(source(cell) for cell in cells(json.loads(text), "markdown"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_generated_pages_are_up_to_date():
    """README's tables with the minutes that each lesson's first cell states, TEACHING.md and RESULTS.md."""
    for page, text in lessons.pages().items():
        assert page.read_text(encoding="utf-8") == text, (
            f"{page.name} is out of date: python tests/benchmarks/lessons.py --pages")


def test_no_lesson_takes_longer_than_it_promises(path):
    measured = json.loads(OTHERS.read_text(encoding="utf-8"))["lessons"]["notebooks"]
    assert measured[path.stem]["minutes"] < lessons.first_cell(path).running + 0.5


def test_readme_is_short_and_has_the_test_command_of_ci():
    lines = read("README.md").splitlines()
    commands = [line for line in lines if line.endswith("&& pytest")]
    assert len(lines) <= 200 and len(commands) == 1 and commands[0] in read(".ci/run")


def test_the_package_holds_only_the_measurements_that_lessons_plot():
    assert MEASURED.stat().st_size < 30_000
    assert set(json.loads(MEASURED.read_text(encoding="utf-8"))) == set(IN_LESSONS)
    assert not set(IN_LESSONS) & set(json.loads(OTHERS.read_text(encoding="utf-8")))
    code = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert all(re.search(rf'\\"{name}\\"', code) for name in IN_LESSONS)


def test_requirements_pin_every_dependency_and_install_the_package():
    lines = read("requirements.txt").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line and line[0] not in "# "}
    wanted = {name.lower() for name in re.findall(r'^    "([A-Za-z0-9_-]+)>=', read("pyproject.toml"), re.M)}
    assert wanted and wanted <= pinned, wanted - pinned
    assert any(line.startswith("-e .") for line in lines)


@pytest.mark.release
@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_answers_help(script):
    if "def main():" in script.read_text(encoding="utf-8"):
        done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
        assert f"usage: {script.name}" in done.stdout
