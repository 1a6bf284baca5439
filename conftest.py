"""What all tests share: the smoke budget, one thread each, a cache of their own, the real tiles where they are.

It stands at the top, since both tests/ and notebooks/ must have it, also when only one notebook is tested.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before torch is imported, here, in the workers of pytest-xdist and in the kernels of the notebooks: two processes
# with two threads each on two cores slow each other down many times over, and the reader's own cache is left alone.
if "VIT_TEST_CACHE" not in os.environ:
    os.environ["VIT_TEST_CACHE"] = os.environ["VIT_CACHE"] = tempfile.mkdtemp(prefix="vit-tests-")
    os.environ["VIT_TEST_EUROSAT"] = str(Path(os.environ.pop("EUROSAT_ROOT", "")).resolve())
    atexit.register(shutil.rmtree, os.environ["VIT_CACHE"], ignore_errors=True)
os.environ.update(VIT_BUDGET="smoke", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
# Tests press Ctrl-C, which a shell switches off in what it runs in its background; so may have done who started them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

from vit_helpers import load_tiles

ROOT = Path(__file__).parent
OUTDATED = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
torch.set_num_threads(1)


def pytest_collectstart(collector):
    """nbval compares text; the noise on stderr and the other faces of an output are left out."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "image/svg+xml", "application/pdf", "text/html")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A cell that runs out of time fails. nbval interrupts it and compares what it printed, and a training takes that for
    a reader's Ctrl-C: it ends in peace, and the cell would pass."""
    result = yield
    if getattr(item.parent, "timed_out", False):
        pytest.fail(f"the cell did not end within {item.config.option.nbval_cell_timeout:.0f} s", pytrace=False)
    return result


def pytest_configure(config):
    # What is outdated is an error in our own code: here, and in the notebooks and commands that the tests start, by the
    # environment. So is, in the package, what leaves the encoding of a file to the system.
    paths = sorted(ROOT.glob("vit_helpers/**/*.py"))
    package = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    ours = ["__main__", *package, "conftest", *(path.stem for path in sorted((ROOT / "tests").rglob("*.py")))]
    lines = ["ignore::EncodingWarning"]
    for kind in OUTDATED:
        config.addinivalue_line("filterwarnings", f"error::{kind}:({'|'.join(ours)})$")
        lines += [f"error::{kind}:{name}" for name in ["__main__", *package]]
    config.addinivalue_line("filterwarnings", lines[0])
    config.addinivalue_line("filterwarnings", f"error::EncodingWarning:({'|'.join(package)})$")
    lines += [f"error::EncodingWarning:{name}" for name in package]
    os.environ.update(PYTHONWARNDEFAULTENCODING="1", PYTHONWARNINGS=",".join(lines))


@pytest.fixture(scope="session")
def eurosat():
    """The real tiles; tests that need them are skipped where EUROSAT_ROOT names none."""
    root = Path(os.environ["VIT_TEST_EUROSAT"])
    if not any((root / name).exists() for name in ("EuroSAT.zip", "eurosat")):
        pytest.skip("EUROSAT_ROOT names no folder with EuroSAT tiles: set it to run the tests on real tiles")
    return load_tiles("eurosat", root=root)
