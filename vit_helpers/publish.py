"""Gives a copy of the course its address: in pyproject.toml, the badges and the setup cells of the notebooks, in one go."""

import json
import re
from pathlib import Path
from urllib.parse import quote

from .runtime import written_whole

ROOT = Path(__file__).parents[1]
COLAB = "https://colab.research.google.com"
# The first code cell of every notebook. Only the standard library and torch, until the course is there.
SETUP = '''\
from importlib.util import find_spec

import torch

# Where the course is installed from; `python -m vit_helpers publish URL` writes it.
ADDRESS = ""
if not find_spec("vit_helpers"):
    raise ImportError("The course is not installed in this Python. In its folder run: pip install -r requirements.txt "
                      "(for Colab, its owner publishes it first: see README.md)")
import vit_helpers
from vit_helpers import plotting

torch.manual_seed(0)
torch.set_printoptions(precision=3, sci_mode=False)'''
INSTALL = '''\
if not find_spec("vit_helpers"):  # not installed, as on Colab: install it, but leave torch as it is
    import subprocess, sys, tempfile
    from importlib.metadata import version

    with tempfile.NamedTemporaryFile("w", delete=False) as keep:
        keep.write("".join(f"{name}=={version(name)}\\n" for name in ("torch", "torchvision")))
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--retries=1", "-c", keep.name, ADDRESS]
    if (done := subprocess.run(pip, capture_output=True, text=True)).returncode:
        raise ImportError(f"{done.stdout}{done.stderr}\\nThe course could not be installed from {ADDRESS} (pip's reason is "
                          "above). Check the network and the address, then run this cell again.")'''


def setup_cell(address):
    """The source of the setup cell that installs the course from `address`; with "" it only says what to do."""
    if not address:
        return SETUP
    before, after = re.split(r"if not find_spec.*?(?=\nimport vit_helpers)", SETUP, maxsplit=1, flags=re.S)
    return before.replace('""', json.dumps(address, ensure_ascii=False)) + INSTALL + after


def places(url, branch="main"):
    """What an address means: what to store, what pip installs from, and where Colab and Binder open it ("" for nowhere).

    `url` is https://github.com/OWNER/REPO, a repository on another https host (no Colab then), a folder that holds the
    course, or "" for no address. Raises ValueError for anything else.
    """
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", branch):
        raise ValueError(f"{branch!r} is not the name of a branch; give one such as 'main'")
    if not url:
        return "", "", "", ""
    part = r"\w[\w.-]*"                                              # of a path; nothing that needs quoting anywhere
    if found := re.fullmatch(rf"https://({part}(?::\d+)?)((?:/{part})+)", url.removesuffix("/").removesuffix(".git"), re.ASCII):
        host, path = found.groups()
        url, ref = f"https://{host}{path}", quote(branch, safe="")
        if host not in ("github.com", "www.github.com"):
            return url, f"git+{url}@{branch}", "", f"https://mybinder.org/v2/git/{quote(url, safe='')}/{ref}"
        if path.count("/") == 2:
            return (f"https://github.com{path}", f"https://github.com{path}/archive/refs/heads/{branch}.zip",
                    f"{COLAB}/github{path}/blob/{branch}/notebooks", f"https://mybinder.org/v2/gh{path}/{ref}")
    folder = Path(url)
    if "://" not in url and (folder / "pyproject.toml").is_file() and (folder / "vit_helpers").is_dir():
        folder = folder.resolve()
        return folder.as_uri().replace("file://", "file://localhost"), folder.as_posix(), "", ""
    raise ValueError(f"{url!r} is no address of a course; give https://github.com/OWNER/REPO, a repository on another https "
                     "host, a folder that holds the course, or \"\" for none")


def badge(what, picture, target):
    return f"[![Open {what}]({picture})]({target})"


def published_notebook(text, name, address, colab):
    """The text of a notebook with its badge and its setup cell; else as it was."""
    notebook = json.loads(text)
    first, *others = notebook["cells"]
    setup = next((cell for cell in others if cell["cell_type"] == "code"), None)
    if first["cell_type"] != "markdown" or setup is None or "import vit_helpers" not in "".join(setup["source"]):
        raise ValueError(f"{name} must open with a markdown cell and import vit_helpers in its first code cell")
    about = re.sub(r"\s*\[!\[Open in Colab\].*", "", "".join(first["source"]))
    if colab:
        about += "\n\n" + badge("in Colab", f"{COLAB}/assets/colab-badge.svg", f"{colab}/{name}")
    first["source"], setup["source"] = about.splitlines(True), setup_cell(address).splitlines(True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def publish(url, branch="main", root=ROOT):
    """Write the address `url` of the course into its checkout at `root`; "" takes it out again. Returns the changed files.

    Run it once more after a change of address: every place is written anew. Raises ValueError, and writes nothing, where
    `url` or `branch` cannot be one or `root` is no checkout.
    """
    stored, address, colab, binder = places(url, branch)
    root, new = Path(root), {}
    project, readme, notebooks = root / "pyproject.toml", root / "README.md", sorted((root / "notebooks").glob("*.ipynb"))
    if not (notebooks and project.is_file() and readme.is_file()):
        raise ValueError(f"{root} is no checkout of the course (pyproject.toml, README.md, notebooks/): clone it, install it "
                         "with `pip install -r requirements.txt`, and publish there")
    badges = [badge("in Colab", f"{COLAB}/assets/colab-badge.svg", f"{colab}/{notebooks[0].name}")] if colab else []
    if binder:
        badges.append(badge("on Binder", "https://mybinder.org/badge_logo.svg",
                            f"{binder}?labpath={quote(f'notebooks/{notebooks[0].name}')}"))
    for path, pattern, line in (
            (project, r'(?m)^(?:# )?Repository = ".*"$', f'Repository = "{stored}"' if stored else '# Repository = ""'),
            (readme, r"(?s)(?<=<!-- badges -->\n).*?(?=<!-- /badges -->)", f"{' '.join(badges)}\n" if badges else "")):
        new[path], times = re.subn(pattern, lambda _, line=line: line, path.read_text(encoding="utf-8"))
        if times != 1:
            raise ValueError(f"{path} must have the place for the address once, not {times} times: {pattern}")
    for path in notebooks:
        new[path] = published_notebook(path.read_text(encoding="utf-8"), path.name, address, colab)
    changed = [path for path, text in new.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        with written_whole(path) as temporary:
            temporary.write_text(new[path], encoding="utf-8", newline="\n")
    return changed
