"""Several processes under torchrun: the same numbers as one, no tile twice, and a killed worker does not cost the run."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from PIL import Image

from vit_helpers import CLASSES, GOOD, Tiles, VisionTransformer, batches, distributed, fit, pack
from vit_helpers.data import flip_and_transpose
from vit_helpers.synthetic import synthetic_tiles

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without torch.distributed")

PROGRAM = """
import dataclasses, sys, weakref, torch
from vit_helpers import RECIPES, Tiles, VisionTransformer, batches, evaluate, fit
from vit_helpers.distributed import joined, of_all, rank, share_of
from vit_helpers.synthetic import synthetic_tiles

with joined():
    group = weakref.ref(torch.distributed.group.WORLD) if torch.distributed.is_initialized() else lambda: None
    tiles = Tiles(*synthetic_tiles(150), source="synthetic")      # 120 and 30: batches of 64 and 56, or of 50, 50 and 20
    train, test = tiles.split(0.2)
    results = {}
    for name in ("plain", "good", "best"):
        # float32 all through, and without dropout, whose draws belong to each process.
        recipe = dataclasses.replace(RECIPES[name], bf16=False, cutmix=0.5 * (name == "best"), batch_size=50)
        torch.manual_seed(0)
        model = VisionTransformer(**{**recipe.model, "dropout": 0.0}, embed_dim=32, depth=2, num_heads=2, mlp_dim=64)
        history = fit(model, train, test, epochs=2, recipe=recipe, seed=3)
        results[name] = [history.step_loss, history.loss, history.train_accuracy, history.test_accuracy,
                         evaluate(model, test, batch_size=7, views=8).probabilities]
        results[name + " weights differ"] = max(
            (a - b).abs().max().item()
            for other in of_all(list(model.parameters())) for a, b in zip(model.parameters(), other))
    numbered = Tiles(train.images, torch.arange(120), tuple(map(str, range(120))))
    seen = of_all([labels for _, labels in batches(numbered, 50, shuffle=True, generator=torch.Generator().manual_seed(0),
                                                   share=share_of)])
    if rank() == 0:
        torch.save({"results": results, "seen": seen}, sys.argv[1])
assert group() is None, "the threads of the group go on, and may end Python with SIGABRT"
"""


def torchrun(count, *words, limit=300, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *map(str, words)]
    # A process that finds "no GPU" trains with gloo, everywhere alike.
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment(), **options)


def environment():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "VIT_BUDGET": "smoke"}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed") / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


def result_of(program, count):
    out = program.with_name(f"{count}.pt")
    if count == 1:
        done = subprocess.run([sys.executable, program, out], capture_output=True, text=True, timeout=300, env=environment())
    else:
        done = torchrun(count, program, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True), done


@pytest.fixture(scope="module")
def alone(program):
    return result_of(program, 1)[0]


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_learn_what_one_learns(program, alone, count):
    found, done = result_of(program, count)
    for name, numbers in alone["results"].items():
        if name.endswith("differ"):
            assert found["results"][name] == 0               # bit by bit the same weights in every process
            continue
        # Where the two best classes of a tile are equal but for rounding, its answer may differ: one tile of 120, or of 30.
        for ours, theirs, rounding in zip(found["results"][name], numbers, (0, 0, 1 / 120, 1 / 30, 0), strict=True):
            ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() < 1e-4 + rounding, name
    whole = torch.cat([torch.stack(alone["seen"][0][:2]).flatten(), alone["seen"][0][2]])
    for step in range(3):                                    # of each batch every tile once, in one process
        shares = [seen[step] for seen in found["seen"]]
        assert all(len(share) < 50 for share in shares)
        assert torch.cat(shares).sort().values.equal(whole[step * 50:(step + 1) * 50].sort().values)
    assert done.stdout.count("steps/s, loss") == 3           # one bar for each run, not one for each process
    assert "Warning" not in done.stderr.replace("OMP_NUM_THREADS", "")


@pytest.mark.parametrize("late", [0, 1, 2])
def test_what_an_earlier_start_left_in_the_store_is_not_read(late):
    store = torch.distributed.HashStore()
    store.set_timeout(timedelta(seconds=10))

    def start(number):
        time.sleep(0.3 * (number == late))
        part = distributed._of_this_start(store, number, 3)
        part.set(f"address of {number}", f"start {turn}")
        return [part.get(f"address of {other}").decode() for other in range(3)]

    for turn in range(3):                                    # each time all processes are new
        with ThreadPoolExecutor(3) as threads:
            assert list(threads.map(start, range(3))) == [[f"start {turn}"] * 3] * 3


def test_process_0_does_not_wait_for_ever_for_the_others():
    store = torch.distributed.HashStore()
    store.set_timeout(timedelta(seconds=0.2))
    with pytest.raises(TimeoutError, match="1 of 3 processes came"):
        distributed._of_this_start(store, 0, 3)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Two hundred tiles on the disk: an epoch of them is three steps."""
    folder = tmp_path_factory.mktemp("packed")
    for i, (image, label) in enumerate(zip(*synthetic_tiles(200), strict=True)):
        path = folder / "tree" / CLASSES[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    pack(folder / "tree", folder / "tiles")
    return folder / "tiles"


def test_a_killed_worker_is_started_again_and_the_run_goes_on_from_the_last_checkpoint(tmp_path, packed):
    words = ["-m", "vit_helpers", "train", "--data", packed, "--epochs", "6", "--report", "end", "--name", "tiles"]
    env = environment()
    once = subprocess.run([sys.executable, *words, "--out", tmp_path / "once"], capture_output=True, text=True, timeout=300,
                          env=env)
    assert once.returncode == 0, once.stderr[-3000:]
    checkpoint = tmp_path / "run.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3",
               "--monitor-interval=0.2", *words, "--checkpoint", checkpoint, "--out", tmp_path / "killed"]
    log = open(tmp_path / "log.txt", "w+", encoding="utf-8")  # noqa: SIM115  # a pipe that nobody reads would fill up
    with log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env) as running:
        started = time.monotonic()
        try:
            while not checkpoint.exists() and running.poll() is None and time.monotonic() - started < 200:
                time.sleep(0.02)
            assert running.poll() is None and checkpoint.exists()
            workers = [int(pid) for pid in subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True,
                                                          text=True).stdout.split()]
            assert len(workers) == 2
            os.kill(workers[-1], signal.SIGKILL)
            code = running.wait(200)
        finally:
            running.terminate()                              # torchrun, which ends its workers; the block waits for it
        log.seek(0)
        said = log.read()
    assert code == 0, said
    assert "SIGKILL" in said or "-9" in said                 # the worker did not end before it was killed
    assert "failed to connect" not in said                   # nobody looked for the dead ones at their old addresses
    facts = [json.loads((tmp_path / name / "tiles.json").read_text(encoding="utf-8")) for name in ("once", "killed")]
    losses = torch.tensor([each["history"]["loss"] for each in facts])
    assert losses.shape == (2, 6) and (losses[0] - losses[1]).abs().max() < 2e-4         # they are stored with four digits
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["tiles.json", "tiles.pt"]


def test_a_broken_setting_ends_all_processes_with_one_sentence(tmp_path):
    done = torchrun(2, "-m", "vit_helpers", "train", "--data", tmp_path / "nothing", "--out", tmp_path)
    assert done.returncode != 0 and "make them with: python -m vit_helpers pack" in done.stderr


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 63, 64])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_shares_are_symmetric_complete_and_of_like_size(monkeypatch, count, processes):
    monkeypatch.setattr(distributed, "processes", lambda: processes)
    shares = []
    for number in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        share = distributed.share_of(count)
        assert share.equal((count - 1 - share).flip(0))      # CutMix partners are in one process
        shares.append(share)
    assert torch.cat(shares).sort().values.equal(torch.arange(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 2


def test_a_share_of_a_batch_gets_the_views_of_the_whole():
    images = torch.arange(20 * 3 * 4 * 4).reshape(20, 3, 4, 4).to(torch.uint8)
    mine = torch.tensor([1, 5, 14, 18])
    whole = flip_and_transpose(images, torch.Generator().manual_seed(0))
    part = flip_and_transpose(images[mine], torch.Generator().manual_seed(0), (20, mine))
    assert part.equal(whole[mine])


def test_alone_nothing_is_shared_out():
    assert (distributed.processes(), distributed.rank(), distributed.of_all("x")) == (1, 0, ["x"])
    model = VisionTransformer(depth=1)
    assert distributed.data_parallel(model) is model
    with distributed.joined():
        assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="--nproc-per-node=1"), distributed.joined():
        pass


def test_an_empty_share_is_no_problem(monkeypatch):
    """The last batch has one tile, which belongs to process 0; process 1 has none, and takes part with gradients of zero."""
    tiles = Tiles(*synthetic_tiles(33), source="synthetic")
    import vit_helpers.training as training

    monkeypatch.setattr(training, "share_of", lambda count: torch.arange(count)[:0] if count == 1 else torch.arange(count))
    monkeypatch.setattr(training, "batches",
                        lambda *args, share=None, **words: batches(*args, share=training.share_of, **words))
    history = fit(VisionTransformer(**GOOD.model, depth=1, embed_dim=32), tiles, epochs=1, recipe=GOOD.__class__(batch_size=32))
    assert len(history.step_loss) == 2 and history.step_loss[1] == 0
