"""What all tests share: VIT_SMOKE, one thread each, a cache of their own, the real tiles where they are.

It stands at the top, since both tests/ and notebooks/ must have it, also when only one notebook is tested.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Before torch is imported, here, in the workers of pytest-xdist and in the kernels of the notebooks: two
# processes with two threads each on two cores slow each other down many times over, and the reader's own
# cache is left alone.
if "VIT_TEST_CACHE" not in os.environ:
    os.environ["VIT_TEST_CACHE"] = os.environ["VIT_CACHE"] = tempfile.mkdtemp(prefix="vit-tests-")
    root = os.environ.pop("EUROSAT_ROOT", "")
    os.environ["VIT_TEST_EUROSAT"] = root and str(Path(root).resolve())
    atexit.register(shutil.rmtree, os.environ["VIT_CACHE"], ignore_errors=True)
# Compiling takes longer than the rest of a lesson: in the tests torch.compile hands back the model as it is.
os.environ.update(VIT_SMOKE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TORCHDYNAMO_DISABLE="1")

import pytest
import torch

from vit_helpers import load_tiles

ROOT = Path(__file__).parent
torch.set_num_threads(1)


def pytest_configure(config):
    """nbval would look for this file where pytest was started, which may be notebooks/."""
    config.option.nbval_sanitize_with = str(ROOT / config.option.nbval_sanitize_with)


def pytest_collectstart(collector):
    """nbval compares text; the noise on stderr and the other faces of an output are left out."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "image/svg+xml", "application/pdf", "text/html")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A cell that runs out of time fails.

    nbval interrupts it and compares what it printed, and a training takes that for a reader's Ctrl-C: it ends
    in peace, and the cell would pass.
    """
    result = yield
    if getattr(item.parent, "timed_out", False):
        seconds = item.config.option.nbval_cell_timeout
        pytest.fail(f"the cell did not end within {seconds:.0f} s", pytrace=False)
    return result


@pytest.fixture
def full(monkeypatch):
    """Without VIT_SMOKE, for tests that need every step of a training."""
    monkeypatch.delenv("VIT_SMOKE")


@pytest.fixture(scope="session")
def eurosat():
    """The real tiles; tests that need them are skipped where EUROSAT_ROOT is not set."""
    root = os.environ["VIT_TEST_EUROSAT"]
    if not root:
        pytest.skip("set EUROSAT_ROOT to run the tests on real tiles")
    return load_tiles("eurosat", root=root)
