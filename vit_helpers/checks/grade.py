"""What the checkers said in notebooks that were handed in, read from their stored outputs; nothing is run."""

import json
import re
from importlib import import_module
from pathlib import Path

from .base import Exercise

# What a checker prints after the name of its exercise, and what it means.
VERDICTS = {"right": "right", "not written yet": "not written", "not right yet": "wrong", "stopped": "wrong"}


def verdicts(path):
    """{exercise: "right", "wrong", "not written", "not run" or "missing"} of the notebook at `path`.

    The exercises are those of a lesson of the course, the one that the notebook has most of; "missing" is one
    whose checking cell was deleted or edited. Raises FileNotFoundError, and ValueError for a file that is no
    notebook with exercises.
    """
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8-sig"))["cells"]
        code = [("".join(cell["source"]), cell) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        message = f"{path} is no notebook; give files that end in .ipynb, as students save them"
        raise ValueError(message) from None
    text = "\n".join(source for source, _ in code)
    lessons = [vars(import_module(f"vit_helpers.checks.{file.stem}"))
               for file in sorted(Path(__file__).parent.glob("lesson_*.py"))]
    lessons = [[name for name, value in lesson.items() if isinstance(value, Exercise)] for lesson in lessons]
    there = [sum(bool(re.search(rf"(def|class|=) (checks\.)?{name}\b", text)) for name in names)
             for names in lessons]
    if not max(there):
        raise ValueError(f"{path} has no exercises; they are in lessons 01 to {len(lessons)}")
    found = dict.fromkeys(lessons[there.index(max(there))], "missing")
    for source, cell in code:
        call = re.search(r"^(\w+) = checks\.\1\(\1\)\s*$", source, re.M)
        if call and call[1] in found:
            said = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
            verdict = re.search(rf"^{call[1]}: ({'|'.join(VERDICTS)})", said, re.M)
            found[call[1]] = VERDICTS[verdict[1]] if verdict else "not run"
    return found
