"""Gives a copy of the course its address: in pyproject.toml, the badges and the setup cells, in one go."""

import json
import re
from pathlib import Path
from urllib.parse import quote

from .runtime import atomic_write

ROOT = Path(__file__).parents[1]
COLAB = "https://colab.research.google.com"


def places(url, branch="main"):
    """Of an address what to store, what pip installs, where Colab and Binder open it; "" for nowhere."""
    url, ref = url.removesuffix("/").removesuffix(".git"), quote(branch, safe="")
    if not url:
        return "", "", "", ""
    if found := re.fullmatch(r"https://github\.com(/[\w.-]+/[\w.-]+)", url, re.ASCII):
        zipped, page = f"{url}/archive/refs/heads/{branch}.zip", f"github{found[1]}/blob/{branch}/notebooks"
        return url, zipped, f"{COLAB}/{page}", f"https://mybinder.org/v2/gh{found[1]}/{ref}"
    if re.fullmatch(r"https://(?!github\.com)[\w.:-]+(/[\w.-]+)+", url, re.ASCII):
        return url, f"git+{url}@{branch}", "", f"https://mybinder.org/v2/git/{quote(url, safe='')}/{ref}"
    raise ValueError(f"{url!r} is no address of a course; give https://github.com/OWNER/REPO, a repository "
                     "on another https host, or \"\" for none")


def badge(what, picture, target):
    return f"[![Open {what}]({picture})]({target})"


def published_notebook(text, name, address, colab):
    """The text of a notebook with its badge, and the address in its setup cell; else as it was."""
    notebook = json.loads(text)
    first, *others = notebook["cells"]
    setup = next(cell for cell in others if cell["cell_type"] == "code")
    about = re.sub(r"\s*\[!\[Open in Colab\].*", "", "".join(first["source"]))
    if colab:
        about += "\n\n" + badge("in Colab", f"{COLAB}/assets/colab-badge.svg", f"{colab}/{name}")
    line = f"ADDRESS = {json.dumps(address, ensure_ascii=False)}"
    code = re.sub(r'(?m)^ADDRESS = ".*"(?=  #)', lambda _: line, "".join(setup["source"]))
    first["source"], setup["source"] = about.splitlines(True), code.splitlines(True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def publish(url, branch="main", root=ROOT):
    """Write the address `url` of the course into its checkout at `root`: the changed files. See `places`."""
    stored, address, colab, binder = places(url, branch)
    notebooks = sorted((Path(root) / "notebooks").glob("*.ipynb"))
    badges, start = [], quote(f"notebooks/{notebooks[0].name}")
    if colab:
        badges.append(badge("in Colab", f"{COLAB}/assets/colab-badge.svg", f"{colab}/{notebooks[0].name}"))
    if binder:
        badges.append(badge("on Binder", "https://mybinder.org/badge_logo.svg", f"{binder}?labpath={start}"))
    address_line, badge_line = f'Repository = "{stored}"', " ".join(badges) + "\n" * bool(badges)
    lines = {"pyproject.toml": (r'(?m)^(?:# )?Repository = ".*"$', "# " * (not stored) + address_line),
             "README.md": (r"(?s)(?<=<!-- badges -->\n).*?(?=<!-- /badges -->)", badge_line)}
    new = {}
    for name, (pattern, line) in lines.items():
        path = Path(root) / name
        new[path] = re.sub(pattern, lambda _, line=line: line, path.read_text(encoding="utf-8"), count=1)
    for path in notebooks:
        new[path] = published_notebook(path.read_text(encoding="utf-8"), path.name, address, colab)
    changed = [path for path, text in new.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        with atomic_write(path) as temporary:
            temporary.write_text(new[path], encoding="utf-8", newline="\n")
    return changed
