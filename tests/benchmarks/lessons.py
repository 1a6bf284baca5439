"""Runs the lessons as a reader would, and writes the pages that are made from what is stored.

    python tests/benchmarks/lessons.py [NAME ...]     run these notebooks (default: all), store their outputs
    python tests/benchmarks/lessons.py --pages        run nothing

Both then write README's tables, notebooks/TEACHING.md and RESULTS.md from what is stored. Set EUROSAT_ROOT to
run on the real tiles. Controls (cells tagged `slider`) run too, but nothing of them is stored.
"""

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import nbformat
from nbclient import NotebookClient
from record import make_parser, peak_memory_of, record, stored
from results import PAGE, between, readme_results, results

from vit_helpers import load_tiles
from vit_helpers.checks import Exercise
from vit_helpers.runtime import atomic_write

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PATHS = {                                            # time: its lessons, and what to add
    "two hours": ("00 02 03 05 10", "add exercises 2.1 and 5.1"),
    "a day": ("00 01 02 03 04 05 07 08 10",
              "add the exercises with one star, and one with two stars from each lesson"),
    "a term of 14 weeks": ("00+01 02+03 04 05 06 07 08 09 10 11 12 13 14+15 16+17",
                           "one entry a week, with its exercises"),
}


@dataclass
class Lesson:
    """What the first cell of a notebook promises; minutes are whole numbers."""

    title: str
    reading: int
    running: int
    exercises: int
    needs: str
    objectives: list


def source(cell):
    return "".join(cell["source"])


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def first_cell(path):
    text = source(cells_of(path)[0])
    found = [re.search(rf"\*\*Minutes:\*\*.*?\b{what} (?:under )?(\d+)", text)
             for what in ("reading", "running", "exercises")]
    minutes = [int(number[1]) if number else 0 for number in found]
    needs = re.search(r"\*\*You need:\*\* (.+?)\.?$", text, re.M)[1]
    return Lesson(re.match(r"# (.+)", text)[1], *minutes, needs, re.findall(r"^- (.+?)[;,.]?$", text, re.M))


def run(path):
    """Run a notebook in place, and return its minutes and its peak memory in MB."""
    notebook = nbformat.read(path, as_version=4)
    language = notebook.metadata.get("language_info")
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False,
                            store_widget_state=False, resources={"metadata": {"path": str(path.parent)}})
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
    with atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)
    return {"minutes": round(minutes, 2), "peak_mb": peak and round(peak / 1e6)}


def readme():
    """README's text with the minutes of each lesson and the table of results renewed; its words stay."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        lesson = first_cell(path)
        minutes = f"{lesson.reading} + {lesson.exercises}" if lesson.exercises else f"{lesson.reading}"
        line = re.compile(rf"^(\| \[[^]]+\]\(notebooks/{path.stem}\.ipynb\) \| [^|]+ \|).*$", re.M)
        text, found = line.subn(rf"\g<1> {minutes} |", text)
        assert found == 1, f"README has {found} lines about {path.stem}"
    return between(text, "results", readme_results())


def paths_through():
    """What fits into two hours, a day and a term, as a table."""
    lessons = {path.stem[:2]: first_cell(path) for path in NOTEBOOKS}
    lines = ["| time | lessons | minutes of reading | of exercises | |", "|---|---|---|---|---|"]
    for time, (chosen, advice) in PATHS.items():
        names = re.findall(r"\d\d", chosen)
        reading = sum(lessons[name].reading for name in names)
        exercises = sum(lessons[name].exercises for name in names)
        words = chosen.replace(" ", ", ").replace("+", " and ")
        lines.append(f"| {time} | {words} | {reading} | {exercises} | {advice} |")
    return "\n".join(lines)


def notes_on(path):
    """Objectives and exercises of a lesson, with the common wrong answers folded."""
    lesson, text = first_cell(path), "\n".join(map(source, cells_of(path)))
    headings = re.findall(r"^### Exercise (.+)$", text, re.M)
    module = importlib.import_module(f"vit_helpers.checks.lesson_{path.stem[:2]}")
    checkers = [value for value in vars(module).values() if isinstance(value, Exercise)]
    parts = [f"### [{lesson.title}]({path.name})\n",
             f"Minutes: reading {lesson.reading}, running at most {lesson.running}, "
             f"exercises {lesson.exercises}. Needs: {lesson.needs}.\n\nAfter it, students can\n",
             *(f"- {objective}" for objective in lesson.objectives)]
    for heading, checker in zip(headings, checkers, strict=True):
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
    return {ROOT / "README.md": readme(), ROOT / "notebooks" / "TEACHING.md": teaching(),
            PAGE: results()}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("name", nargs="*", help="such as 05_self_attention; default: all")
    parser.add_argument("--pages", action="store_true", help="only write the pages from what is stored")
    args = parser.parse_args()
    known = [path.stem for path in NOTEBOOKS]
    if unknown := set(args.name) - set(known):
        parser.error(f"there is no notebook {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    if not args.pages:
        load_tiles()                                 # decoded once, so that no lesson's time has this in it
        for path in NOTEBOOKS:
            if path.stem in (args.name or known):
                facts = run(path)
                print(f"{path.stem}: {facts['minutes']} minutes, {facts['peak_mb']} MB", flush=True)
                measured = {**stored()["lessons"]["notebooks"], path.stem: facts}
                record("lessons", {"what": "Each from top to bottom in a fresh kernel, on the real tiles.",
                                   "command": "python tests/benchmarks/lessons.py",
                                   "notebooks": dict(sorted(measured.items()))})
    for path, text in pages().items():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
