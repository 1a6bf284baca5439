"""Runs all tests with the lowest or the newest versions that pyproject.toml allows, in a fresh environment.

    python tests/benchmarks/versions.py lowest --python 3.10 [PYTEST'S WORDS ...]

Needs uv, which makes the environment. Prints the versions and ends with pytest's exit status.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from record import make_parser

ROOT = Path(__file__).parents[2]
RESOLUTION = {"lowest": "lowest-direct", "newest": "highest"}
SHOW = """
import importlib.metadata, sys
print("Python", sys.version)
for name in ("torch", "torchvision", "numpy", "scipy", "pillow", "matplotlib", "jupyterlab", "timm"):
    print(name, importlib.metadata.version(name))
"""


def run(versions, wanted, words, folder):
    """All tests in a new environment in `folder`, with Python `wanted`; pytest's exit status."""
    subprocess.run(["uv", "venv", "--no-config", "--python", wanted, folder], check=True)
    subprocess.run(["uv", "pip", "install", "--python", folder, "--no-config", "-e", ".[course,test]",
                    "--resolution", RESOLUTION[versions]], cwd=ROOT, check=True)
    binaries = Path(folder, "Scripts" if os.name == "nt" else "bin")
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(folder)}
    subprocess.run([binaries / "python", "-c", SHOW], check=True)
    return subprocess.run([binaries / "python", "-m", "pytest", *words], cwd=ROOT, env=environment).returncode


def main():
    parser = make_parser(__doc__)
    parser.add_argument("versions", choices=RESOLUTION)
    parser.add_argument("--python", required=True, help="such as 3.10, or the path of one")
    args, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as place:
        sys.exit(run(args.versions, args.python, words, Path(place) / "venv"))


if __name__ == "__main__":
    main()
