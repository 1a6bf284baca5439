"""What nbval does not see: the notebook files as a reader opens them, and the pages made from them."""

import html
import itertools
import json
import re

import lessons
import pytest
import yaml
from lessons import NOTEBOOKS, ROOT, source
from record import stored

KNOWN_TAGS = {"nbval-ignore-output", "nbval-skip", "exercise", "solution", "slider"}
PAGES = [*NOTEBOOKS, *(ROOT / name for name in ("README.md", "notebooks/TEACHING.md", "notebooks/GLOSSARY.md",
                                                "tests/benchmarks/RESULTS.md", ".github/SECURITY.md"))]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


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


def test_executed_once_from_top_to_bottom_without_errors(notebook):
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(source(cell).strip() for cell in code), "an empty code cell"
    assert not [output for cell in code for output in cell["outputs"]
                if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_opens_anywhere(path, notebook):
    """Small, no state of controls, no tag that tests and teachers do not know, no path of one machine."""
    assert path.stat().st_size < 1_500_000
    assert "widgets" not in notebook["metadata"]
    assert {tag for cell in notebook["cells"] for tag in tags(cell)} <= KNOWN_TAGS
    code = "\n".join(map(source, cells(notebook, "code")))
    assert not re.search(r"^\s*[%!]", code, re.M), "a magic"
    everything = "\n".join([*map(source, notebook["cells"]), *map(printed, cells(notebook, "code"))])
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/|[A-Z]:\\\\", everything)


def test_figures_are_png_with_alt_text_that_is_also_told_below(notebook):
    """Below, because JupyterLab shows no alt text."""
    outputs = [output for cell in cells(notebook, "code") for output in cell["outputs"]]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert set(kinds) <= {"text/plain", "image/png", "text/html"}
    for picture, words in itertools.pairwise([*outputs, {}]):
        if "image/png" in picture.get("data", {}):
            alt = picture["metadata"]["image/png"]["alt"]
            summary = "<details><summary>The figure in words</summary>"
            assert len(alt) > 30
            assert "".join(words["data"]["text/html"]) == f"{summary}{html.escape(alt)}</details>"
    assert kinds.count("image/png") == kinds.count("text/html")


def test_the_parts_of_a_lesson(path, notebook):
    first, setup = source(notebook["cells"][0]), source(cells(notebook, "code")[0])
    assert re.match(rf"# {path.stem[:2]} · \S", first)
    assert "**Minutes:**" in first and "**You need:**" in first
    assert setup == source(cells(json.loads(NOTEBOOKS[0].read_text(encoding="utf-8")), "code")[0])
    prose = "\n".join(map(source, cells(notebook, "markdown")))
    if path != NOTEBOOKS[0]:                      # 00 is the map, not a lesson
        for heading in ("Three quick questions", "What you built", "Further reading"):
            assert f"## {heading}" in prose, heading
        assert prose.count("<details>") == prose.count("</details>") >= 3
    levels = [len(marks) for marks in re.findall(r"(?m)^(#+) ", re.sub(r"(?ms)^```.*?^```", "", prose))]
    assert levels[0] == 1 and 1 not in levels[1:]
    assert all(lower <= upper + 1 for upper, lower in itertools.pairwise(levels))    # no level is skipped
    for following in NOTEBOOKS[NOTEBOOKS.index(path) + 1:][:1]:
        assert f"({following.name})" in prose
    for cell in cells(notebook, "markdown"):      # the slides start at the headings
        chapter = re.search(r"\A# |(?m:^## )", source(cell))
        wanted = {"slide_type": "slide" if chapter else "subslide"}
        assert cell["metadata"].get("slideshow") == wanted, source(cell)[:80]


def test_small_steps(notebook):
    in_a_row = 0
    for cell in notebook["cells"]:
        in_a_row = in_a_row + 1 if cell["cell_type"] == "code" else 0
        assert in_a_row <= 3, f"more than three code cells without a word: {source(cell)}"
        if in_a_row:
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


NUMBER = re.compile(r"(?<![\w.\-/:])(\d{1,3}(?:,\d{3})+|\d+\.\d+|\d+(?= ?%))(?![\w/]|\.\d) ?(%|million)?")
NO_RESULT = re.compile("|".join((
    r"\$[^$]*\$", r"`[^`]*`", r"\]\([^)]*\)", r"\d{4}\.\d{4,5}",             # formulas, code, links, arXiv
    r"^#+ [\d.]+", r"(?:section|exercise|lesson)s? [\d.]+(?:(?:, | and | to )\d+\.\d+)*",
    r"[\d.,]+(?: ?[·+/x] ?[\d.,]+)+", r"= ?[\d.,]*\d")), re.MULTILINE | re.I)   # arithmetic written out
QUOTED = {                                           # lesson: numbers that none of its cells shows, and whose
    "": dict.fromkeys(("27,000", "21,600", "17,280", "16,200", "5,400", "4,320"), "EuroSAT's tiles"),
    "11": {"98.5%": "AiTLAS arena",
           **dict.fromkeys(("1.1", "2.1", "1.4", "2.3"), "Touvron et al. 2021, table 3")},
    "08": dict.fromkeys(("81.2%", "83.3%", "97.4%", "0.7", "6.5"), "RESULTS.md, without bf16 units"),
    "12": {"1.3 million": "Russakovsky et al. 2015, ImageNet"},
    "21": {"1.3 million": "Russakovsky et al. 2015, ImageNet"},
    "22": {"49,152": "Radford et al. 2021, CLIP"},
    "18": {"14.2 million": "Ridnik et al. 2021", "21,841": "the same"},
}


def test_every_number_in_the_text_is_shown(path, notebook):
    """Each percentage, decimal and large number is, rounded, in the lesson's code, in its outputs or QUOTED.

    Not in exercises and quick questions, whose cases are made up; and numbers of sections are no results.
    """
    code = cells(notebook, "code")
    shown = "\n".join([*map(source, code), *map(printed, code)])
    shown = re.findall(r"(\d[\d,]*\.?\d*(?:e-?\d+)?)(%?)", shown)
    known = {float(number.replace(",", "")) for number, _ in shown}
    known |= {float(number.replace(",", "")) / 100 for number, percent in shown if percent}
    prose = "\n\n".join(map(source, cells(notebook, "markdown")))
    prose = re.sub(r"(?s)\n## Exercises.*?(?=\n## What you built|\Z)", "", prose)
    sections, text, missing = re.findall(r"^## ([\d.]+) ", prose, re.M), NO_RESULT.sub(" ", prose), []
    text = text.replace(" %", "%")                   # both are read alike
    for found in NUMBER.finditer(text):
        value, half = float(found[1].replace(",", "")), 0.5001 * 10 ** -len(found[1].partition(".")[2])
        scale = {"%": 100, "million": 1e-6}.get(found[2], 1)
        quoted = found[0].strip() in {*sections, *QUOTED[""], *QUOTED.get(path.stem[:2], {})}
        if not quoted and not any(abs(n * by - value) <= half for n in known for by in (1, scale)):
            missing.append(text[max(0, found.start() - 50):found.end() + 30].replace("\n", " "))
    assert not missing, "no cell of this lesson shows\n" + "\n".join(missing)


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


def test_the_minutes_are_those_of_the_formula(path):
    """Reading may be one off, so that a sentence can be mended without more ado."""
    stated, wanted = lessons.first_cell(path).minutes, lessons.minutes_of(path)
    renew = f"(reading, running, exercises) should be {wanted}: python tests/benchmarks/lessons.py --pages"
    assert abs(stated[0] - wanted[0]) <= 1 and stated[1:] == wanted[1:], renew


def test_readme_is_short_and_has_the_test_command_of_ci():
    lines = read("README.md").splitlines()
    commands = [line for line in lines if line.endswith("&& pytest")]
    assert len(lines) <= 200 and len(commands) == 1 and commands[0] in read(".ci/run")


def test_results_has_all_measurements():
    page = read("tests/benchmarks/RESULTS.md")
    assert all(f"<!-- {name} -->\n" in page for name in stored())


def test_requirements_pin_every_dependency_and_install_the_package():
    lines = read("requirements.txt").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line and line[0] not in "# "}
    wanted = {name.lower() for name in re.findall(r'^    "([A-Za-z0-9_-]+)>=', read("pyproject.toml"), re.M)}
    assert wanted and wanted <= pinned, wanted - pinned
    assert any(line.startswith("-e .") for line in lines)


@pytest.mark.release
def test_the_workflow_runs_readmes_commands_on_all_pythons_that_readme_names():
    workflow = yaml.load(read(".github/workflows/tests.yml"), yaml.BaseLoader)         # 3.10 stays a word
    readme, job = read("README.md"), workflow["jobs"]["tested"]
    first, last = map(int, re.search(r"Python 3\.(\d+) to 3\.(\d+)", readme).groups())
    assert f'requires-python = ">=3.{first}"' in read("pyproject.toml")
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(first, last + 1)]
    (unix,) = [line for line in readme.splitlines() if line.endswith("&& pytest")]
    windows = re.search(r"\*\*Windows\*\* \(PowerShell\): `(.+?)jupyter lab", readme)[1] + "pytest"
    assert [step["run"] for step in job["steps"] if "pytest" in step.get("run", "")] == [unix, windows]
