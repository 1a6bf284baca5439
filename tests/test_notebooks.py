"""What nbval does not see: the notebook files themselves, as a reader opens them."""

import html
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import lessons
import nbformat
import pytest

import vit_helpers

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
KNOWN_TAGS = {"nbval-ignore-output", "exercise", "solution", "slider"}
COURSE = ["00_start_here", "01_eurosat_data", "02_patches", "03_patch_embeddings", "04_positional_encoding",
          "05_self_attention", "06_encoder", "07_vision_transformer", "08_training", "09_evaluation",
          "10_attention_maps", "11_what_matters", "12_pretrained", "13_segmentation", "14_detection", "15_video",
          "16_generation", "17_scaling"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def is_strict(cell):
    return "nbval-ignore-output" not in cell["metadata"].get("tags", [])


def texts(cell):
    """All that a cell printed or returned, as text."""
    for output in cell["outputs"]:
        yield "".join(output.get("text", output.get("data", {}).get("text/plain", "")))


def test_the_course_is_complete():
    assert [path.stem for path in NOTEBOOKS] == COURSE


def test_executed_once_from_top_to_bottom(notebook):
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert all(source(cell).strip() for cell in code_cells(notebook)), "an empty code cell"


def test_no_errors_and_nothing_on_stderr(notebook):
    assert not [output for output in outputs(notebook) if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_only_known_tags(notebook):
    assert {tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])} <= KNOWN_TAGS


def test_no_widgets_and_only_png_figures(notebook):
    assert "widgets" not in notebook["metadata"]
    kinds = {kind for output in outputs(notebook) for kind in output.get("data", {})}
    assert kinds <= {"text/plain", "image/png", "text/html"}


def test_every_figure_has_alt_text_and_tells_it_below_where_jupyterlab_shows_it(notebook):
    figures, kinds = 0, [kind for output in outputs(notebook) for kind in output.get("data", {})]
    for cell in code_cells(notebook):
        for picture, words in itertools.pairwise(cell["outputs"]):
            if "image/png" in picture.get("data", {}):
                alt = picture["metadata"]["image/png"]["alt"]
                told = "".join(words["data"]["text/html"])
                assert len(alt) > 30
                assert told == f"<details><summary>The figure in words</summary>{html.escape(alt)}</details>"
                figures += 1
    assert figures == kinds.count("image/png") == kinds.count("text/html")


def test_small_enough_to_open_anywhere(path):
    assert path.stat().st_size < 1_500_000


def test_starts_with_a_promise_and_the_setup_cell(path, notebook):
    first, setup = source(notebook["cells"][0]), source(code_cells(notebook)[0])
    assert re.match(rf"# {path.stem[:2]} · \S", first)
    assert "**Minutes:**" in first and "**You need:**" in first
    reference = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    assert setup == source(code_cells(reference)[0])


def test_links_inside_the_repository_are_alive(path, notebook):
    prose = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"https?://|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_no_magics_and_no_paths_of_one_machine(notebook):
    code = "\n".join(source(cell) for cell in code_cells(notebook))
    assert not re.search(r"^\s*[%!]", code, re.M)
    everything = "\n".join([source(cell) for cell in notebook["cells"]]
                           + [text for cell in code_cells(notebook) for text in texts(cell)])
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/|[A-Z]:\\\\", everything)


def test_small_steps(notebook):
    in_a_row = 0
    for cell in notebook["cells"]:
        in_a_row = in_a_row + 1 if cell["cell_type"] == "code" else 0
        assert in_a_row <= 3, f"more than three code cells without a word: {source(cell)}"
        if cell["cell_type"] == "code":
            assert len([line for line in source(cell).splitlines() if line.strip()]) <= 30


def test_each_ignored_output_is_followed_by_a_strict_cell(notebook):
    cells = code_cells(notebook)
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if not is_strict(cell) and "slider" not in cell["metadata"]["tags"]:
            assert following and is_strict(following), f"no strict cell after: {source(cell)}"


def test_a_control_is_not_stored_and_has_its_picture_below(notebook):
    cells = code_cells(notebook)
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if "slider" in cell["metadata"].get("tags", []):
            assert not cell["outputs"] and not is_strict(cell), "store outputs with: python tests/benchmarks/lessons.py NAME"
            assert source(cell).splitlines()[-1].startswith(("widgets.", " "))
            assert any("image/png" in output.get("data", {}) for output in following["outputs"])


def test_strict_cells_print_only_what_is_the_same_everywhere(notebook):
    strict = [cell for cell in code_cells(notebook) if is_strict(cell)]
    assert any("".join(texts(cell)).strip() for cell in strict), "nothing is compared"
    for cell in strict:
        assert not any("image/png" in output.get("data", {}) for output in cell["outputs"]), source(cell)
        for text in texts(cell):
            assert not re.search(r"\d\.\d{4,}|grad_fn|0x[0-9a-f]{6}", text), text


def test_ends_with_questions_a_ledger_and_the_way_on(path, notebook):
    prose = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    if path.stem != COURSE[0]:                    # 00 is the map, not a lesson
        for heading in ("Three quick questions", "What you built", "Further reading"):
            assert f"## {heading}" in prose, heading
        assert prose.count("<details>") == prose.count("</details>") >= 3
    place = COURSE.index(path.stem)
    if place + 1 < len(COURSE):
        assert f"({COURSE[place + 1]}.ipynb)" in prose


def test_readme_and_ci_run_the_same_test_command():
    readme, ci = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.endswith("&& pytest")]
    assert len(commands) == 1 and commands[0] in ci


def test_readme_maps_every_notebook_and_its_figures_are_those_of_the_last_run():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = vit_helpers.measured("lessons")["notebooks"]
    assert list(measured) == COURSE
    assert readme == lessons.with_notes(lessons.with_map(readme, measured)), (
        "write it anew: python tests/benchmarks/lessons.py --readme")


def test_minutes_and_memory_were_measured_with_this_code_and_the_lesson_promises_no_less(path, notebook):
    facts = vit_helpers.measured("lessons")["notebooks"][path.stem]
    assert facts["code"] == lessons.code_of(notebook), f"run it again: python tests/benchmarks/lessons.py {path.stem}"
    _, reading, running, exercises, objectives = lessons.first_cell(path)
    assert facts["minutes"] < running + 0.5 and 200 < facts["peak_mb"] < 12_000
    assert reading >= 10 and len(objectives) >= 3 and (exercises >= 30 or path.stem == COURSE[0])


def test_the_minutes_of_readmes_paths_add_up():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    minutes = {path.stem[:2]: lessons.first_cell(path) for path in NOTEBOOKS}
    paths = re.findall(r"^\| (two hours|a day|a term[^|]*) \| ([^|]+) \| reading (\d+)(?: and exercises (\d+))?", readme, re.M)
    assert len(paths) == 3
    for _, chosen, reading, exercises in paths:
        names = re.findall(r"\d\d", chosen)
        assert int(reading) == sum(minutes[name][1] for name in names)
        assert not exercises or int(exercises) == sum(minutes[name][3] for name in names)
    assert re.findall(r"\d\d", paths[2][1]) == sorted(minutes)


def test_readme_states_what_the_shipped_weights_reached():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "vit_helpers" / "weights").glob("*.json"))
    assert files
    for facts in (json.loads(file.read_text(encoding="utf-8")) for file in files):
        stated = [line for line in readme.splitlines() if f"`{facts['name']}`" in line]
        assert any(f"{facts['test_accuracy']:.1%}".replace("%", " %") in line for line in stated), facts["name"]


def stored_text(name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return "\n".join(text for cell in code_cells(notebook) for text in texts(cell))


def test_readme_states_what_lessons_01_and_08_show():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    color = re.search(r"color alone: ([\d.]+)% of 5,400 eurosat", stored_text("01_eurosat_data"))[1]
    good = re.findall(r"^ +5 +[\d.]+ +[\d.]+% +([\d.]+)%", stored_text("08_training"), re.M)      # its fifth epoch
    assert len(good) == 1 and float(good[0]) > 92
    assert f"{color} %" in readme and f"{good[0]} %" in readme


def test_readme_states_what_lessons_13_to_16_show():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    segmentation, generation = stored_text("13_segmentation"), stored_text("16_generation")
    wanted = [iou for _, iou in re.findall(r"^(patches alone|context, \w+) +[\d.]+% +([\d.]+)$", segmentation, re.M)]
    maps = re.findall(r"^sliding \w+: \d+ windows, ([\d,]+) tiles per second, ([\d.]+)%", segmentation, re.M)
    wanted += [number for row in maps for number in row]
    found = re.findall(r"^(?:class and place|place only) +([\d.]+)% +([\d.]+)%", stored_text("14_detection"), re.M)
    wanted += [number for row in found for number in row]
    wanted += re.findall(r"^(?:one frame|joint|factorised) +([\d.]+)%$", stored_text("15_video"), re.M)
    few = re.findall(r"^\d+ labels, [a-z ]+? +((?:[\d.]+% ?)+)$", generation, re.M)
    wanted += [f"{statistics.mean(float(share) for share in draws.replace('%', '').split()):.1f} %" for draws in few]
    wanted += re.findall(r"judge on real eurosat test tiles: ([\d.]+)%", generation)
    wanted += [f"{share} %" for share in re.findall(r"^guidance [124]: (\d+)% recognized", generation, re.M)]
    assert len(wanted) == 3 + 4 + 4 + 3 + 4 + 1 + 3
    assert [text for text in wanted if text not in readme] == []


def mean_and_spread(values):
    spread = f" ± {statistics.stdev(values) * 100:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values) * 100:.1f}{spread} %"


def test_readme_states_what_the_benchmarks_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    race, best = vit_helpers.measured("race"), vit_helpers.measured("best-eurosat")
    assert best["recipe"] in readme and race["command"] in readme and f"training seeds {race['seeds']}" in readme
    wanted = []
    for runs in race["runs"].values():
        wanted.append(mean_and_spread([run["accuracy"] for run in runs]))
        wanted.append(f"{statistics.mean(run['seconds'] for run in runs):.0f} s")
    split = [row for row in best["rows"] if "80/20" in row["data"]]
    assert [row["seed"] for row in split] == [0, 1, 2] and len(best["rows"]) == 4
    wanted += [mean_and_spread([row[key] for row in split]) for key in ("test_accuracy", "test_accuracy_8_views")]
    wanted += [f"{best['rows'][3][key]:.1%}".replace("%", " %") for key in ("test_accuracy", "test_accuracy_8_views")]
    peers = vit_helpers.measured("peers")["result"]
    for name in {row["model"] for row in peers} - {"ours"}:          # training and inference, each in float32 and bf16
        ratios = [f"{row['ours_is_faster_by']:.2f}" for row in peers if row["model"] == name]
        wanted.append(f"| {name} | {' | '.join(ratios)} |")
    large = vit_helpers.measured("beyond_memory")
    made_up, archive = large["made_up"], large["archive"]
    wanted += [f"{made_up['gigabytes']:.1f} GB", f"{made_up['peak'] - made_up['before']} MB more memory",
               f"{archive['pictures_per_second']:,.0f} pictures a second", f"takes {archive['disk_takes']:.2f} times as long"]
    for row in vit_helpers.measured("pipeline")["result"]["rows"][1:]:
        wanted.append(f"{row['way']} {row['ours_is_faster_by']:.0f} times")
    assert [text for text in wanted if text not in readme] == []


def test_requirements_pin_every_dependency_and_install_the_package():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.split("==", line)[0].lower() for line in lines if "==" in line and not line.startswith(("#", " "))}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = {name.lower() for name in re.findall(r'^    "([A-Za-z0-9_-]+)>=', project, re.M)}
    assert wanted and wanted <= pinned, wanted - pinned
    assert any(line.startswith("-e .") for line in lines)


def test_one_notebook_alone_is_tested_in_the_smoke_budget_and_a_cell_that_runs_out_of_time_fails(tmp_path):
    """Also one that takes nbval's interruption for Ctrl-C, as a training does, and ends without an error."""
    for name in ("pyproject.toml", "conftest.py", "tests/nbval_sanitize.cfg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    first = "import os, time\nprint(os.environ['VIT_BUDGET'], 'EUROSAT_ROOT' in os.environ)"
    cells = [nbformat.v4.new_code_cell(first, execution_count=1,
                                       outputs=[nbformat.v4.new_output("stream", text="smoke False\n")])]
    cells += [nbformat.v4.new_code_cell("try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass",
                                        execution_count=2)]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "one.ipynb")
    words = ["notebooks/one.ipynb", "-n0", "--nbval-cell-timeout=2", "-p", "no:cacheprovider"]
    outside = {name: value for name, value in os.environ.items() if name not in ("VIT_BUDGET", "VIT_TEST_CACHE")}
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=tmp_path, capture_output=True, text=True,
                          env={**outside, "EUROSAT_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)})
    assert "1 failed, 1 passed" in done.stdout and "the cell did not end within 2 s" in done.stdout, done.stdout + done.stderr
