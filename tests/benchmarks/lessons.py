"""Runs the lessons as a reader would, and writes all that is made from what is stored.

    python tests/benchmarks/lessons.py [NAME ...]     run these notebooks (default: all), store their outputs
    python tests/benchmarks/lessons.py --pages        run nothing

Both then write the minutes of every lesson, README's tables, notebooks/TEACHING.md and RESULTS.md. Set
EUROSAT_ROOT to run on the real tiles. Controls (cells tagged `slider`) run too; nothing of them is stored.
"""

import importlib
import json
import math
import re
from collections import namedtuple
from pathlib import Path
from time import perf_counter

import nbformat
from nbclient import NotebookClient
from record import OTHERS, make_parser, peak_memory_of, record, stored
from results import PAGE, between, readme_results, results

from vit_helpers import load_tiles
from vit_helpers.checks import Exercise

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PATHS = {                                            # time: its lessons, and what to add
    "two hours": ("00 02 03 05", "the reading alone; exercises 2.1 and 5.1 where there is time; tell in a "
                  "minute each what 01 and 04 show"),
    "a day": ("00 01 02 03 04 05 07 08 10",
              "add the exercises with one star, and one with two stars from each lesson, about two hours; "
              "tell briefly what 06 and 09 show, or take two days"),
    "a term of 14 weeks": ("00+01 02+03 04 05 06+07 08 09 10+11 12+19 13+14 15+16 17+18 20 21+22",
                           "one entry a week, with its exercises"),
}
MINUTES = re.compile(r"(?<=\*\*Minutes:\*\* )reading (\d+), running (?:under )?(\d+)(?:, exercises (\d+))?")


# What the first cell of a notebook says; minutes: of reading, running and exercises.
Lesson = namedtuple("Lesson", "title minutes needs objectives")


def source(cell):
    return "".join(cell["source"])


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def checkers_of(path):
    lesson = importlib.import_module(f"vit_helpers.checks.lesson_{path.stem[:2]}")
    return [value for value in vars(lesson).values() if isinstance(value, Exercise)]


def first_cell(path):
    text = source(cells_of(path)[0])
    minutes = tuple(int(number or 0) for number in MINUTES.search(text).groups())
    needs = re.search(r"\*\*You need:\*\* (.+?)\.?$", text, re.M)[1]
    return Lesson(re.match(r"# (.+)", text)[1], minutes, needs, re.findall(r"^- (.+?)[;,.]?$", text, re.M))


def minutes_of(path):
    """Minutes of reading, running and exercises by the one formula for all lessons, each rounded up.

    A minute of reading is 150 words or 10 lines of code that is not folded. Exercises count as their headings
    state, running as measured.
    """
    words, lines, exercises, section = 0, 0, 0, ""
    for cell in cells_of(path):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            section = (re.findall(r"^## (.+)", text, re.M) or [section])[-1]
            exercises += sum(map(int, re.findall(r"^### Exercise .* (\d+) minutes?", text, re.M)))
        if section == "Exercises":
            continue
        if cell["cell_type"] == "markdown":
            words += len(re.findall(r"[^\W_]\S*", re.sub(r"<[^>]*>|\]\([^)]*\)", " ", text)))
        elif not cell["metadata"].get("jupyter", {}).get("source_hidden"):
            lines += sum(bool(line.strip()) for line in text.splitlines())
    measured = json.loads(OTHERS.read_text(encoding="utf-8"))["lessons"]["notebooks"][path.stem]["minutes"]
    return math.ceil(words / 150 + lines / 10), math.ceil(measured), exercises


def with_minutes(path):
    """The text of a notebook's file with nothing but its minutes renewed."""
    reading, running, exercises = minutes_of(path)
    line = f"reading {reading}, running {'under ' * (running == 1)}{running}"
    line += f", exercises {exercises}" * (exercises > 0)
    return MINUTES.sub(line, path.read_text(encoding="utf-8"), 1)


def run(path):
    """Run a notebook in place, and return its minutes and its peak memory in MB."""
    notebook = nbformat.read(path, as_version=4)
    language = notebook.metadata.get("language_info")
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False,
                            store_widget_state=False, coalesce_streams=True,
                            resources={"metadata": {"path": str(path.parent)}})
    started = perf_counter()
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        minutes = (perf_counter() - started) / 60
        peak = peak_memory_of(client.km.provisioner.pid)
    for cell in notebook.cells:
        if "slider" in cell.metadata.get("tags", []):
            cell.outputs = []                        # without its kernel, a control is an error message
    if language:
        notebook.metadata.language_info = language
    nbformat.write(notebook, path)
    return {"minutes": round(minutes, 2), "peak_mb": peak and round(peak / 1e6)}


def readme():
    """README's text with the minutes of each lesson and the table of results renewed; its words stay."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        reading, _, exercises = first_cell(path).minutes
        minutes = f"{reading} + {exercises}" if exercises else f"{reading}"
        line = re.compile(rf"^(\| \[[^]]+\]\(notebooks/{path.stem}\.ipynb\) \| [^|]+ \|).*$", re.M)
        text, found = line.subn(rf"\g<1> {minutes} |", text)
        assert found == 1, f"README has {found} lines about {path.stem}"
    return between(text, "results", readme_results())


def paths_through():
    """What fits into two hours, a day and a term, as a table."""
    minutes = {path.stem[:2]: first_cell(path).minutes for path in NOTEBOOKS}
    lines = ["| time | lessons | minutes of reading | of all exercises | |", "|---|---|---|---|---|"]
    for time, (chosen, advice) in PATHS.items():
        rows = [minutes[name] for name in re.findall(r"\d\d", chosen)]
        reading, exercises = sum(row[0] for row in rows), sum(row[2] for row in rows)
        words = chosen.replace(" ", ", ").replace("+", " and ")
        lines.append(f"| {time} | {words} | {reading} | {exercises} | {advice} |")
    return "\n".join(lines)


def notes_on(path):
    """Objectives and exercises of a lesson, with the common wrong answers folded."""
    lesson, text = first_cell(path), "\n".join(map(source, cells_of(path)))
    headings = re.findall(r"^### Exercise (.+)$", text, re.M)
    reading, running, exercises = lesson.minutes
    parts = [f"### [{lesson.title}]({path.name})\n",
             f"Minutes: reading {reading}, running at most {running}, exercises {exercises}. "
             f"Needs: {lesson.needs}.\n\nAfter it, students can\n",
             *(f"- {objective}" for objective in lesson.objectives)]
    for heading, checker in zip(headings, checkers_of(path), strict=True):
        parts.append(f"\n**{heading}** (`{checker.name}`)\n")
        parts.append("<details><summary>Common wrong answers</summary>\n")
        parts += [f"- {sentence}" for sentence in checker.mistakes]
        parts.append("\n</details>")
    return "\n".join(parts)


def teaching():
    """TEACHING.md's text with all that is made from the lessons renewed; its words stay."""
    text = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
    text = between(text, "paths", paths_through())
    return between(text, "lessons", "\n" + "\n\n".join(map(notes_on, NOTEBOOKS[1:])) + "\n")


def pages():
    """The generated pages as they should be: {path: text}."""
    return {ROOT / "README.md": readme(), ROOT / "notebooks" / "TEACHING.md": teaching(), PAGE: results()}


def main():
    parser = make_parser(__doc__)
    known = [path.stem for path in NOTEBOOKS]
    parser.add_argument("name", nargs="*", default="all", choices=[*known, "all"], metavar="NAME",
                        help="such as 05_self_attention; default: all")
    parser.add_argument("--pages", action="store_true", help="only write what is made from what is stored")
    args = parser.parse_args()
    if not args.pages:
        load_tiles()                                 # decoded once, so that no lesson's time has this in it
        for path in NOTEBOOKS:
            if "all" in args.name or path.stem in args.name:
                facts = run(path)
                print(f"{path.stem}: {facts['minutes']} minutes, {facts['peak_mb']} MB", flush=True)
                measured = {**stored()["lessons"]["notebooks"], path.stem: facts}
                record("lessons", {"what": "Each from top to bottom in a fresh kernel, on the real tiles.",
                                   "command": "python tests/benchmarks/lessons.py",
                                   "notebooks": dict(sorted(measured.items()))})
    for path in NOTEBOOKS:
        path.write_text(with_minutes(path), encoding="utf-8")
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
