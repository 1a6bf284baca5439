"""Runs the lessons as a reader would, stores their outputs, and keeps README's figures about them true.

    python tests/benchmarks/lessons.py [NAME ...]     run these notebooks (default: all), store outputs, minutes, peak memory
    python tests/benchmarks/lessons.py --readme       write README's map and teachers' notes from what is stored, run nothing

Set EUROSAT_ROOT to run on the real tiles. Controls (cells tagged `slider`) run too, but nothing of them is stored.
"""

import argparse
import hashlib
import importlib
import json
import re
from pathlib import Path
from time import perf_counter

import nbformat
from nbclient import NotebookClient
from record import peak_memory_of, record

from vit_helpers import load_tiles, measured
from vit_helpers.checks import Exercise
from vit_helpers.pretrained import MEASURED
from vit_helpers.runtime import written_whole

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MARKS = "<!-- written by tests/benchmarks/lessons.py -->", "<!-- end -->"


def source(cell):
    return "".join(cell["source"])


def code_of(notebook):
    """A short mark of the code that was measured: all but the setup cell, which holds the address, and unwritten exercises."""
    code = [source(cell) for cell in notebook["cells"]
            if cell["cell_type"] == "code" and "exercise" not in cell["metadata"].get("tags", [])][1:]
    return hashlib.sha256("\n\n".join(code).encode()).hexdigest()[:12]


def run(path):
    """Run a notebook in place, and return minutes, peak memory in MB, and what was run."""
    notebook = nbformat.read(path, as_version=4)
    language = notebook.metadata.get("language_info")
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False, store_widget_state=False,
                            resources={"metadata": {"path": str(path.parent)}})
    started = perf_counter()
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        minutes = (perf_counter() - started) / 60
        peak = peak_memory_of(client.km.provisioner.pid)
    for cell in notebook.cells:
        if "slider" in cell.metadata.get("tags", []):
            cell.outputs = []                        # a control without its kernel is an error message to the reader
    if language:
        notebook.metadata.language_info = language
    with written_whole(path) as temporary:
        nbformat.write(notebook, temporary)
    return {"minutes": round(minutes, 2), "peak_mb": peak and round(peak / 1e6), "code": code_of(notebook)}


def first_cell(path):
    """(title, minutes of reading, promised minutes of running, minutes of exercises, objectives) of a notebook."""
    text = source(json.loads(path.read_text(encoding="utf-8"))["cells"][0])
    numbers = [re.search(rf"\*\*Minutes:\*\*.*?\b{what} (?:under )?(\d+)", text)
               for what in ("reading", "running", "exercises")]
    reading, running, exercises = (int(found[1]) if found else 0 for found in numbers)
    return re.match(r"# (.+)", text)[1], reading, running, exercises, re.findall(r"^- (.+?)[;.]?$", text, re.M)


def with_map(readme, lessons):
    """README with the figures of each lesson's line in the map renewed; the words stay."""
    for path in NOTEBOOKS:
        facts, (_, reading, _, exercises, _) = lessons[path.stem], first_cell(path)
        line = re.compile(rf"^(\| \[[^]]+\]\(notebooks/{path.stem}\.ipynb\) \| [^|]+ \|).*$", re.M)
        figures = f" {reading} | {exercises or '–'} | {facts['minutes']:.1f} | {facts['peak_mb']:,} |"
        readme, found = line.subn(rf"\g<1>{figures}", readme)
        assert found == 1, f"README has {found} lines about {path.stem}"
    return readme


def notes_for_teachers():
    """Objectives, exercises and their common wrong answers, lesson by lesson, as folded Markdown."""
    parts = []
    for path in NOTEBOOKS[1:]:
        title, _, _, _, objectives = first_cell(path)
        text = "\n".join(source(cell) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
        headings = re.findall(r"^### Exercise (.+)$", text, re.M)
        checkers = [value for value in vars(importlib.import_module(f"vit_helpers.checks.lesson_{path.stem[:2]}")).values()
                    if isinstance(value, Exercise)]
        parts.append(f"<details><summary>{title}</summary>\n\nObjectives: you will\n")
        parts += [f"- {objective}" for objective in objectives]
        for heading, checker in zip(headings, checkers, strict=True):
            parts.append(f"\n**{heading}** (`{checker.name}`). Common wrong answers:\n")
            parts += [f"- {sentence}" for sentence in checker.mistakes]
        parts.append("\n</details>\n")
    return "\n".join(parts)


def with_notes(readme):
    before, rest = readme.split(MARKS[0])
    return before + MARKS[0] + "\n\n" + notes_for_teachers() + "\n" + MARKS[1] + rest.split(MARKS[1], 1)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help="such as 05_self_attention; default: all")
    parser.add_argument("--readme", action="store_true", help="only write README from what is stored")
    args = parser.parse_args()
    unknown = set(args.name) - {path.stem for path in NOTEBOOKS}
    if unknown:
        parser.error(f"there is no notebook {', '.join(sorted(unknown))}; choose from {', '.join(p.stem for p in NOTEBOOKS)}")
    if not args.readme:
        load_tiles()                                 # decoded once; the first lesson shall not be the only one to say so
    for path in NOTEBOOKS if not args.readme else []:
        if path.stem in (args.name or [path.stem]):
            facts = run(path)
            print(f"{path.stem}: {facts['minutes']} minutes, {facts['peak_mb']} MB", flush=True)
            known = json.loads(MEASURED.read_text(encoding="utf-8")).get("lessons", {}).get("notebooks", {})
            record("lessons", {"what": "Run from top to bottom in the lesson budget, each for itself.",
                               "command": "python tests/benchmarks/lessons.py",
                               "notebooks": dict(sorted({**known, path.stem: facts}.items()))})
    readme = ROOT / "README.md"
    text = with_notes(with_map(readme.read_text(encoding="utf-8"), measured("lessons")["notebooks"]))
    with written_whole(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
