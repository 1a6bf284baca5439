"""What can fail in a classroom, really done: killed processes, full and read-only disks, Ctrl-C, a restarted kernel.

Nothing is mocked: signals are sent, disks are mounted. A function that is named by a test and starts with `child_` runs in a
process of its own, which imports torch once and then forks, so that a hundred kills take seconds.
"""

import ast
import contextlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vit_helpers
from vit_helpers import Tiles, VisionTransformer, eurosat, evaluate, fit, load_checkpoint, load_tiles, save_checkpoint
from vit_helpers.synthetic import synthetic_tiles
from vit_helpers.training import History

HERE = Path(__file__).parent
SMALL = dict(embed_dim=32, depth=1, num_heads=2, mlp_dim=32, positions="sincos", pool="mean", dropout=0.0)
needs_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGKILL nor fork")


def elsewhere(function, *args, before=(), timeout=100):
    """Run a function of this file in a process of its own, with text arguments; what it printed. It must not fail."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import test_faults; test_faults.{function.__name__}(*sys.argv[2:])"
    words = [*before, sys.executable, "-c", code, HERE, *args]
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    try:
        said, complained = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):        # what it forked must not work on beside the next tests
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, complained
    return said


def forked(work, *args):
    """The number of a new process that does `work(*args)` and ends, with exit code 1 after an exception."""
    number = os.fork()
    if number:
        return number
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)       # shells switch Ctrl-C off for what runs in the background
    try:
        code = work(*args) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(number):
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def press_ctrl_c(number, seconds=10):
    """Ctrl-C for a process, and once more if it still works `seconds` later, as people do; its exit code and how often."""
    for times in (1, 2):
        os.kill(number, signal.SIGINT)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found, status = os.waitpid(number, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status), times
            time.sleep(0.002)
    raise AssertionError(f"it still works {seconds} seconds after the second Ctrl-C")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def few_tiles():
    return Tiles(*synthetic_tiles(40), source="synthetic")


def small_model():
    torch.manual_seed(0)
    return VisionTransformer(**SMALL)


def parts(folder):
    return sorted(path.name for path in Path(folder).rglob("*.part"))


# SIGKILL while a checkpoint is written

def a_run(number):
    """A model, its optimizer and a history, all of whose numbers are `number`; 7 MB in a file."""
    model = VisionTransformer(positions="sincos", pool="mean", dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters())
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return stamped(model, optimizer, number), optimizer, History(loss=[float(number)])


@torch.no_grad()
def stamped(model, optimizer, number):
    for value in model.parameters():
        value.fill_(number)
        optimizer.state[value]["exp_avg"].fill_(number)
    return model


def write_for_ever(path, model, optimizer, history, first, pipe):
    for number in range(first, first + 1000):
        stamped(model, optimizer, number)
        history.loss[0] = float(number)
        os.write(pipe, number.to_bytes(4, "big"))
        save_checkpoint(path, model, [optimizer], history=history)


def child_kill_writers(folder, kills):
    torch.set_num_threads(1)
    path, chance, seen = Path(folder) / "run.pt", random.Random(0), {"old": 0, "new": 0, "left": 0}
    model, optimizer, history = a_run(0)
    save_checkpoint(path, model, [optimizer], history=history)
    there, span = 0, 0.05                                    # the number in the file; the longest delay, in seconds
    for kill in range(1, int(kills) + 1):
        before, (listen, speak) = parts(folder), os.pipe()
        writer = forked(write_for_ever, path, model, optimizer, history, 1000 * kill, speak)
        os.close(speak)
        begun = [int.from_bytes(os.read(listen, 4), "big")]  # the first write of this process begins
        time.sleep(chance.uniform(0, span))
        os.kill(writer, signal.SIGKILL)
        assert (code := ended(writer)) == -signal.SIGKILL, code
        while said := os.read(listen, 4):                    # those that it began since
            begun.append(int.from_bytes(said, "big"))
        os.close(listen)
        old, new = [there, *begun][-2:]
        load_checkpoint(path, model, [optimizer], history=history)   # whole, or this raises
        [there] = history.loss
        assert there in (old, new), f"{there} is neither {old} nor {new}"
        state = [*model.parameters(), *(optimizer.state[value]["exp_avg"] for value in model.parameters())]
        assert all((value == there).all() for value in state)
        whole = "new" if there in begun else "old"           # whether this process brought a write to its end
        seen[whole] += 1
        span *= 0.9 if whole == "new" else 1.1               # so that half of them do, however busy the machine is
        seen["left"] += parts(folder) != before
    # An hour later the next write clears away what the dead ones left, and leaves alone what a living one is writing.
    for name in parts(folder):
        os.utime(Path(folder) / name, times=(time.time() - 4000,) * 2)
    (Path(folder) / ".run.pt.1.part").touch()
    (Path(folder) / ".other.pt.1.part").touch()
    os.utime(Path(folder) / ".other.pt.1.part", times=(0, 0))
    save_checkpoint(path, model, [optimizer], history=history)
    assert parts(folder) == [".other.pt.1.part", ".run.pt.1.part"]
    print(json.dumps(seen))


@needs_posix
def test_a_hundred_kills_while_checkpoints_are_written_leave_the_old_or_the_new_one(tmp_path):
    seen = json.loads(elsewhere(child_kill_writers, tmp_path, 100))
    assert seen["old"] + seen["new"] == 100 and min(seen.values()) >= 5, seen   # "left": the kill fell into a write


# A full disk, and one that cannot be written

def archive_of_ten(folder):
    """A EuroSAT.zip with one tile of each class."""
    images = synthetic_tiles(10)[0]
    with zipfile.ZipFile(folder / "EuroSAT.zip", "w") as archive:
        for name, image in zip(vit_helpers.CLASSES, images, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / "tile.jpg", "JPEG")
            archive.write(folder / "tile.jpg", f"2750/{name}/{name}_1.jpg")
    return folder


def expect_ten():
    """Let the package take `archive_of_ten` for EuroSAT."""
    eurosat.COUNTS, eurosat.SHAPE = (1,) * 10, (10, 3, 64, 64)


def decoded(folder):
    """The tiles of `archive_of_ten`, without the package."""
    with zipfile.ZipFile(folder / "EuroSAT.zip") as archive:
        return np.stack([np.asarray(Image.open(archive.open(name))) for name in archive.namelist()]).transpose(0, 3, 1, 2)


def own_disk(options):
    """Words that run a command with a disk of its own mounted on its last argument, seen by that command alone."""
    script = f'for disk; do :; done; mount -t tmpfs -o {options} tmpfs "$disk" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]


def needs_own_disk(folder):
    folder.mkdir()
    words = [*own_disk("size=1m"), "true", str(folder)]
    if not shutil.which("unshare") or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here: that takes Linux and user namespaces, which most containers refuse")


def fill_up(disk, but=0):
    """Write a file that leaves no room on a disk, or as few bytes as `but`."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:                                      # full
            file.truncate(file.tell() - but)


def child_full_disk(kind, data, disk):
    """Train for three epochs, with no room for a checkpoint after the first; then decode tiles with no room for them."""
    data, disk, tiles = Path(data), Path(disk), few_tiles()
    whole = small_model()
    fit(whole, tiles, epochs=3)
    model, calls = small_model(), []

    def fill(module, inputs):
        calls.append(1)
        if len(calls) == 2:                                  # a batch of 40 tiles is an epoch: this is the second
            if kind == "full":
                fill_up(disk)
            else:
                import resource

                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    hook = model.register_forward_pre_hook(fill)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = fit(model, tiles, epochs=3, checkpoint=disk / "run.pt")
    hook.remove()
    reason = "No space left on device" if kind == "full" else "File too large"
    assert [reason in str(each.message) and "training goes on" in str(each.message) for each in said] == [True, True], said
    assert len(history) == 3 and parts(disk) == []
    first = History()
    load_checkpoint(disk / "run.pt", small_model(), history=first)
    assert len(first) == 1                                   # the old one, whole
    expect_ten()
    os.environ["VIT_CACHE"] = str(disk / "cache")
    if kind == "full":
        (disk / "filler").unlink()
        (disk / "cache").mkdir()                             # so that the array finds no room, not its folder
        fill_up(disk, but=20_000)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        images = load_tiles("eurosat", root=data).images
    assert [reason in str(each.message) and "with 340 MB free" in str(each.message) for each in said] == [True], said
    assert np.array_equal(images, decoded(data)) and parts(disk) == [] and not list(disk.glob("cache/*.npy"))
    if kind == "full":
        (disk / "filler").unlink()
    else:
        resource_limit_off()
    resumed = small_model()
    assert len(fit(resumed, tiles, epochs=3, checkpoint=disk / "run.pt", resume=True)) == 3
    for trained in (model, resumed):
        assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), whole.parameters(), strict=True))
    assert np.array_equal(load_tiles("eurosat", root=data).images, images) and list(disk.glob("cache/*.npy"))


def resource_limit_off():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


@needs_posix
@pytest.mark.parametrize("kind", ["full", "limit"])
def test_a_full_disk_costs_neither_the_training_nor_the_old_checkpoint_nor_the_tiles(tmp_path, kind):
    """Once a disk of 2 MB that is really full; once the system's limit for the size of a file."""
    before = []
    if kind == "full":
        needs_own_disk(tmp_path / "disk")
        before = own_disk("size=2m")
    else:
        (tmp_path / "disk").mkdir()
    elsewhere(child_full_disk, kind, archive_of_ten(tmp_path), tmp_path / "disk", before=before)


def child_read_only_disk(data, disk):
    expect_ten()
    os.environ["VIT_CACHE"] = disk
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        images = load_tiles("eurosat", root=data).images
        history = fit(small_model(), few_tiles(), epochs=1, checkpoint=Path(disk) / "run.pt")
    assert np.array_equal(images, decoded(Path(data))) and len(history) == 1
    said = [each for each in said if each.category is UserWarning]               # older libraries warn of their own
    assert ["Read-only file system" in str(each.message) for each in said] == [True, True], list(map(str, said))
    assert "could not be kept" in str(said[0].message) and "training goes on" in str(said[1].message)


def test_a_disk_that_cannot_be_written_costs_neither_the_tiles_nor_the_training(tmp_path):
    needs_own_disk(tmp_path / "disk")
    elsewhere(child_read_only_disk, archive_of_ten(tmp_path), tmp_path / "disk", before=own_disk("ro"))


# Several processes and one cache

def decode_slowly(folder, seconds):
    """Load the tiles, where decoding takes so long that others come in between; each decoding writes down who did it."""
    quick = eurosat._decode

    def slow(place):
        with open(folder / "decodings", "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return quick(place)

    eurosat._decode = slow
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiles = load_tiles("eurosat", root=folder)
    assert np.array_equal(tiles.images, decoded(folder))


def decodings(folder):
    return (folder / "decodings").read_text(encoding="utf-8").split() if (folder / "decodings").exists() else []


def child_decode_together(folder, processes, locks):
    folder = Path(folder)
    expect_ten()
    os.environ["VIT_CACHE"] = str(folder / "cache")
    if locks == "none":                                      # as on some network drives
        eurosat.FileLock.acquire = lambda self: (_ for _ in ()).throw(NotImplementedError("no locks here"))
    workers = [forked(decode_slowly, folder, 0.5) for _ in range(int(processes))]
    assert [ended(worker) for worker in workers] == [0] * int(processes)
    assert len(decodings(folder)) == (1 if locks == "locks" else int(processes)), decodings(folder)
    assert parts(folder) == [] and len(list(folder.glob("cache/*.npy"))) == 1
    if locks == "none":
        return
    # One that is killed while the others wait lets the next one in.
    shutil.rmtree(folder / "cache")
    first = forked(decode_slowly, folder, 60)
    wait_for(lambda: len(decodings(folder)) == 2)
    waiting = [forked(decode_slowly, folder, 0) for _ in range(2)]
    time.sleep(0.3)
    assert len(decodings(folder)) == 2
    os.kill(first, signal.SIGKILL)
    assert [ended(each) for each in (first, *waiting)] == [-signal.SIGKILL, 0, 0] and len(decodings(folder)) == 3


@needs_posix
@pytest.mark.parametrize(("processes", "locks"), [(2, "locks"), (4, "locks"), (4, "none")])
def test_processes_that_need_the_tiles_at_once_get_them_from_one(tmp_path, processes, locks):
    elsewhere(child_decode_together, archive_of_ten(tmp_path), processes, locks)


# Ctrl-C

def interrupted_fit(folder):
    """Train until Ctrl-C, with a checkpoint after each of very many short epochs; then look at what is there."""
    model, path = small_model(), folder / "run.pt"
    history = fit(model, few_tiles(), epochs=100_000, checkpoint=path)
    assert history.interrupted and len(history.loss) == len(history.seconds) == len(history.train_accuracy)
    assert len(history.step_loss) == len(history) and str(history)
    assert 0 <= evaluate(model, few_tiles()).accuracy <= 1 and model.training
    found = History()
    load_checkpoint(path, small_model(), history=found)
    assert len(history) - 1 <= len(found) <= len(history) and found.loss == history.loss[:len(found)]


def child_interrupt_fit(folder, times):
    """Ctrl-C at random moments; most fall into the writing of a checkpoint, which takes the larger part of these epochs."""
    torch.set_num_threads(1)
    folder, chance = Path(folder), random.Random(0)
    fit(small_model(), few_tiles(), epochs=1)                # what takes time the first time, once for all
    pressed = 0
    for _ in range(int(times)):
        trainer = forked(interrupted_fit, folder)
        wait_for((folder / "run.pt").exists)
        time.sleep(chance.uniform(0, 0.05))
        code, times_pressed = press_ctrl_c(trainer)
        assert code == 0
        pressed += times_pressed
        (folder / "run.pt").unlink()
    assert parts(folder) == []
    # Python itself loses about one Ctrl-C in two thousand here: torch.save uses copyreg, where an `except:` without a name
    # passes over all that is raised. Three of forty would be ours.
    assert pressed <= int(times) + 2


@needs_posix
def test_ctrl_c_at_any_moment_of_a_training_leaves_model_history_and_checkpoint(tmp_path):
    said = elsewhere(child_interrupt_fit, tmp_path, 40)
    assert said.count("the model and the history so far are usable") == 40


def interrupted_evaluation(folder):
    tiles, model = few_tiles(), small_model().train()
    wanted = evaluate(model, tiles)
    try:
        (folder / "ready").touch()
        for _ in range(1_000_000):
            evaluate(model, tiles)
    except KeyboardInterrupt:
        # Everything is as before, and so the next evaluation is the same.
        assert torch.is_grad_enabled() and all(layer.training for layer in model.modules())
        assert torch.equal(evaluate(model, tiles).confusion, wanted.confusion)
        return 130


def interrupted_decoding(folder):
    expect_ten()
    os.environ["VIT_CACHE"] = str(folder / "cache")
    try:
        decode_slowly(folder, 60)
    except KeyboardInterrupt:
        assert parts(folder) == [] and not list(folder.glob("cache/*.npy"))
        return 130


def child_interrupt_others(folder):
    torch.set_num_threads(1)
    folder, chance = Path(folder), random.Random(0)
    evaluate(small_model(), few_tiles())                     # what takes time the first time, once for all
    for work, begun, times in ((interrupted_evaluation, folder / "ready", 40), (interrupted_decoding, folder / "decodings", 1)):
        for _ in range(times):
            number = forked(work, folder)
            wait_for(begun.exists)
            time.sleep(chance.uniform(0, 0.05))              # any moment of an evaluation, which takes some milliseconds
            os.kill(number, signal.SIGINT)
            assert ended(number) == 130, work
            begun.unlink()
    expect_ten()
    os.environ["VIT_CACHE"] = str(folder / "cache")
    assert np.array_equal(load_tiles("eurosat", root=folder).images, decoded(folder))        # nothing is in the way


@needs_posix
def test_ctrl_c_ends_an_evaluation_and_a_decoding_and_leaves_nothing_behind(tmp_path):
    elsewhere(child_interrupt_others, archive_of_ten(tmp_path))


def command(folder, load, *words):
    """`python -m vit_helpers` with other tiles; what it prints goes to the files "out" and "err"."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    vit_helpers.load_tiles, sys.argv = load, ["vit_helpers", *words]
    try:
        runpy.run_module("vit_helpers", run_name="__main__")
    except SystemExit as end:
        return end.code


def child_interrupt_command(folder):
    folder = Path(folder)
    words = ["train", "--source", "synthetic", "--recipe", "quick", "--epochs", "30", "--checkpoint", str(folder / "run.pt"),
             "--out", str(folder)]
    fit(small_model(), few_tiles(), epochs=1)                # what takes time the first time, once for both
    number = forked(command, folder, lambda source: few_tiles(), *words)
    wait_for((folder / "run.pt").exists)
    os.kill(number, signal.SIGINT)
    assert ended(number) == 130 and (folder / "err").read_text("utf-8") == "", (folder / "err").read_text("utf-8")
    assert (folder / "out").read_text(encoding="utf-8").count("of 30 epochs; the model and the history so far are usable") == 1
    done = torch.load(folder / "run.pt", weights_only=True)["history"]["loss"]
    assert 1 <= len(done) < 30 and not (folder / "synthetic.pt").exists()
    assert ended(forked(command, folder, lambda source: few_tiles(), *words)) == 0, (folder / "err").read_text(encoding="utf-8")
    history = json.loads((folder / "synthetic.json").read_text(encoding="utf-8"))["history"]["loss"]
    assert len(history) == 30 and history[:len(done)] == [round(x, 4) for x in done]
    # While it reads the tiles, or at any other time, it ends with one line.
    os.environ["VIT_CACHE"] = str(folder / "cache")
    expect_ten()
    eurosat._decode = lambda place: (folder / "reading").touch() or time.sleep(60)
    os.environ["EUROSAT_ROOT"] = str(folder)
    number = forked(command, folder, load_tiles, "train", "--source", "eurosat", "--out", str(folder))
    wait_for((folder / "reading").exists)
    os.kill(number, signal.SIGINT)
    assert ended(number) == 130 and (folder / "err").read_text("utf-8") == "interrupted\n", (folder / "err").read_text("utf-8")


@needs_posix
def test_ctrl_c_ends_the_command_with_one_line_and_it_goes_on_when_called_again(tmp_path):
    elsewhere(child_interrupt_command, archive_of_ten(tmp_path))


# A kernel that is killed in the middle of a training

def cells_of_lesson_08(*marks):
    """The code cells of the lesson that hold these words, one each; with six epochs for two, so that a kill falls into them."""
    notebook = json.loads((HERE.parent / "notebooks" / "08_training.ipynb").read_text("utf-8"))
    cells, chosen = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"], []
    for mark in marks:
        [cell] = [cell for cell in cells if mark in cell]
        chosen.append(cell.replace("smoke=2", "smoke=6"))
    return chosen


@needs_posix
def test_a_kernel_killed_while_it_trains_goes_on_when_the_lesson_is_run_again(tmp_path):
    """The cells of section 8.7 as they stand in the lesson; "steps" counts what was really computed."""
    from jupyter_client.manager import start_new_kernel

    *before, train, check = cells_of_lesson_08(
        'find_spec("vit_helpers")', "tiles = vit_helpers.load_tiles()", "checkpoint=unfinished, resume=True",
        "unfinished.unlink(missing_ok=True)")
    before.append("tiles = tiles.subset(200)\ntrain, test = tiles.split()")
    count = "steps = []\ngood_model.register_forward_pre_hook(lambda model, images: steps.append(model.training))\n"
    train = train.replace("epochs =", f"{count}epochs =")
    weights = "sum(float(value.double().sum()) for value in good_model.parameters())"
    state = f"(good.loss, {weights}, sum(steps), unfinished.exists())"

    def run(code, wanted="None"):
        reply = client.execute_interactive(code, timeout=60, output_hook=lambda message: None, allow_stdin=False,
                                           user_expressions={"wanted": wanted})["content"]
        assert reply["status"] == "ok", reply
        return ast.literal_eval(reply["user_expressions"]["wanted"]["data"]["text/plain"])

    manager, client = start_new_kernel(kernel_name="python3", env={**os.environ, "VIT_CACHE": str(tmp_path)})
    try:
        for code in before:
            run(code)
        wanted, written = run(train, state), lambda: [*tmp_path.glob("lesson-08-*.pt")]
        assert wanted[2:] == (6 * 3, True)                   # 160 tiles are 3 batches of 64
        run(check)
        assert not written()
        client.execute(train)
        wait_for(written)
        manager.signal_kernel(signal.SIGKILL)
        wait_for(lambda: not manager.is_alive())
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=60)
        for code in before:
            run(code)
        found = run(train, state)
        run(check)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert found[:2] == wanted[:2] and len(found[0]) == 6 and not written()
    assert 0 < found[2] < 6 * 3, found                       # it went on, and did not begin again
