"""Two processes under torchrun train one model; a killed one does not cost the run."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_in_the_wild import picture, put

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch cannot distribute")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# Where no GPU is to be seen, training uses gloo, everywhere alike.
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "VIT_SMOKE": "0"}

PROGRAM = """
import dataclasses, sys, torch
from unittest.mock import Mock
from vit_helpers import GOOD, Tiles, VisionTransformer, fit, training
from vit_helpers.distributed import process_group, rank

for name in ("batches", "save_checkpoint"):              # they do their work, and write down who called them
    setattr(training, name, Mock(wraps=getattr(training, name)))

with process_group():
    torch.manual_seed(0)
    model = VisionTransformer(8, 4, 3, 10, 16, 2, 2, 24, dropout=0.0)
    tiles = Tiles((torch.rand(121, 3, 8, 8) * 255).to(torch.uint8), torch.arange(121) % 10)
    history = fit(model, tiles, tiles, epochs=2, checkpoint=sys.argv[1] + "/run.pt",
                  recipe=dataclasses.replace(GOOD, batch_size=40))
    torch.save({"weights": model.state_dict(), "losses": history.step_loss,
                "shares": [call.args[0].index for call in training.batches.call_args_list],
                "written": training.save_checkpoint.call_count, "tested": len(history.test_accuracy)},
               f"{sys.argv[1]}/{rank()}.pt")
"""


def test_two_processes_learn_from_their_own_tiles_and_end_with_the_same_weights(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run([*TORCHRUN, tmp_path / "program.py", tmp_path], capture_output=True, text=True,
                          timeout=200, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for found in (first, second):
        assert len(found["shares"]) == 2 and len(found["losses"]) == 6       # 60 tiles, 20 in a step
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert first["losses"] == second["losses"]
    for ours, theirs in zip(first["shares"], second["shares"], strict=True):
        assert len(ours) == len(theirs) == 60 and len({*ours.tolist(), *theirs.tolist()}) == 120
    for what in ("written", "tested"):                       # process 0 alone writes, judges, shows
        assert (first[what], second[what]) == (2, 0)
    assert done.stdout.count("epoch 2/2: 100%") == 1


@pytest.mark.release
def test_a_killed_worker_is_started_again_and_the_run_goes_on_from_the_last_checkpoint(tmp_path):
    put({f"{i % 10}/{i}.png": picture(i, "PNG") for i in range(200)}, tmp_path / "tree")
    checkpoint, out = tmp_path / "run.pt", tmp_path / "out"
    words = ["--max-restarts=3", "--monitor-interval=0.2", "-m", "vit_helpers", "train", "--data",
             tmp_path / "tree", "--epochs", "6", "--report", "end", "--checkpoint", checkpoint, "--out", out]
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen([*TORCHRUN, *words], stdout=log, stderr=log, env=ENVIRONMENT)
        try:
            while not checkpoint.exists() and running.poll() is None:
                time.sleep(0.02)
            children = subprocess.check_output(["pgrep", "-P", str(running.pid)], text=True)
            os.kill(int(children.split()[-1]), signal.SIGKILL)
            code = running.wait(100)
        finally:
            running.terminate()                              # torchrun, which ends its workers
            running.wait()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert code == 0 and ("SIGKILL" in said or "-9" in said), said
    assert len(torch.load(checkpoint)["history"]["loss"]) == 6 and (out / "tree.pt").exists()
