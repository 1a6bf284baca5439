"""What can fail in a classroom, really done: killed processes, a full disk, Ctrl-C."""

import itertools
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vit_helpers import History, Tiles, VisionTransformer, fit, load_checkpoint, save_checkpoint
from vit_helpers.synthetic import synthetic_tiles

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows knows no such signals")
ONCE_AND_OFTEN = pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.release)])


def start(code, *args):
    """A Python process of its own, where Ctrl-C works even if a shell in the background switched it off."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {code}"
    words = [sys.executable, "-c", code, *map(str, args)]
    environment = {**os.environ, "VIT_SMOKE": "0", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition, process):
    late = time.monotonic() + 120
    while not condition():
        if time.monotonic() > late:
            process.kill()
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def small_model():
    torch.manual_seed(0)
    return VisionTransformer(embed_dim=32, depth=1, num_heads=2, mlp_dim=32)


def few_tiles():
    return Tiles(*synthetic_tiles(40), source="synthetic")


def write_for_ever(path, first):
    """Checkpoints of 2 MB, one after another, each of one number only: `first`, the next one, ..."""
    model = VisionTransformer()
    for number in itertools.count(int(first)):
        for p in model.parameters():
            p.data.fill_(number)
        save_checkpoint(path, model=model, history=History(loss=[number]))


@ONCE_AND_OFTEN
def test_a_kill_while_a_checkpoint_is_written_leaves_the_old_or_the_new_one(tmp_path, times):
    path, chance, there = tmp_path / "run.pt", random.Random(0), None
    for first in range(1000, 1000 * times + 1, 1000):
        code = "import sys, test_faults; test_faults.write_for_ever(*sys.argv[1:])"
        writer = start(code, path, first)
        wait_for(path.exists, writer)
        wait_for(lambda name=f".run.pt.{writer.pid}.part": (tmp_path / name).exists(), writer)
        time.sleep(chance.uniform(0, 0.004))
        writer.kill()
        writer.communicate()
        model, history = VisionTransformer(), History()
        load_checkpoint(path, model=model, history=history)              # whole, or this raises
        [number] = history.loss
        assert all((p == number).all() for p in model.parameters())
        assert number == there or number >= first, "neither the old nor a new one"
        there = number


def test_a_full_disk_costs_neither_the_training_nor_the_old_checkpoint(tmp_path, full):
    """Full is the system's limit for the size of a file: that needs no disk of its own."""
    resource = pytest.importorskip("resource")
    before, found, path = resource.getrlimit(resource.RLIMIT_FSIZE), History(), tmp_path / "run.pt"
    fit(small_model(), few_tiles(), epochs=1, checkpoint=path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.warns(UserWarning, match=r"run\.pt could not be written .*too large.*training goes on"):
            assert len(fit(small_model(), few_tiles(), epochs=2, checkpoint=path)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    load_checkpoint(path, model=small_model(), history=found)
    assert len(found) == 1 and list(tmp_path.iterdir()) == [path]
