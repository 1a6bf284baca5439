"""What the checkers said in notebooks that were handed in, read from their stored outputs; nothing is run."""

import json
import re
from pathlib import Path


def verdicts(path):
    """{exercise: "right", "wrong", "not written" or "not run"} of the notebook at `path`, in its order.

    Raises ValueError for a file that is no notebook with exercises.
    """
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]).rstrip() for cell in cells]
    except (ValueError, KeyError, TypeError):
        message = f"{path} is no notebook; give files that end in .ipynb, as students save them"
        raise ValueError(message) from None
    found = {}
    for cell, source in zip(cells, sources, strict=True):
        call = re.search(r"^(\w+) = checks\.\1\(\1\)$", source, re.M)
        if call and cell["cell_type"] == "code":
            said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
            verdict = re.search(rf"^{call[1]}: (right|not written yet|not right yet|stopped)", said, re.M)
            found[call[1]] = {"right": "right", "not written yet": "not written", None: "not run"}.get(
                verdict and verdict[1], "wrong")
    if not found:
        raise ValueError(f"{path} has no exercises; they are in lessons 01 to 17")
    return found
