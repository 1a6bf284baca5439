"""What adapts a run to the place it runs in: its budget, its device, its progress bar, its files."""

import io
import os
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

import torch
from tqdm import tqdm

PATIENCE = 10                                # seconds without a byte from the network
LEFT_BEHIND = 3600                           # seconds without a byte written to a temporary file: its writer is dead
BUDGETS = ("smoke", "lesson", "full")


def by_budget(*, smoke, lesson, full):
    """Pick one of three values by the environment variable `VIT_BUDGET` ("smoke", "lesson", "full"; default "lesson").

    "smoke" is for tests (seconds, synthetic tiles, no network), "lesson" for learners (minutes on two CPU cores),
    "full" for a GPU or a patient evening. Raises ValueError for any other value of the variable.
    """
    name = os.environ.get("VIT_BUDGET", "lesson")
    if name not in BUDGETS:
        raise ValueError(f"VIT_BUDGET={name!r} is not a budget; choose 'smoke', 'lesson' or 'full', or leave it unset")
    return {"smoke": smoke, "lesson": lesson, "full": full}[name]


def pick_device(device=None):
    """The torch.device to use: the one asked for, else CUDA where there is one, else the CPU.

    Raises ValueError for one that is not here.
    """
    cuda = torch.cuda.is_available()
    found = _device(("cuda" if cuda else "cpu") if device is None else device)
    if (found.type == "meta" or (found.type == "mps" and not torch.backends.mps.is_available())
            or (found.type == "cuda" and not (cuda and (found.index or 0) < max(1, torch.cuda.device_count())))):
        raise ValueError(f"device={str(found)!r} is not on this machine; choose {'cpu or cuda' if cuda else 'cpu'}")
    return found


def _device(name):
    """The torch.device of this name; ValueError where torch knows none."""
    try:
        return torch.device(name)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ValueError(f"device={name!r} is no device; choose 'cpu' or 'cuda'") from problem


def has_fast_bf16(device):
    """Whether matrix products in bfloat16 are faster than in float32 on `device`.

    On a CPU that takes bf16 instructions (AMX or AVX512-BF16 on x86); without them bf16 is emulated and slower.
    """
    device = _device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    units = getattr(torch.cpu, "get_capabilities", dict)()        # older releases of torch cannot tell: then float32
    used = torch.backends.cpu.get_cpu_capability() != "AVX2"      # ATEN_CPU_CAPABILITY=avx2 leaves such units unused
    return device.type == "cpu" and used and bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def in_eval_mode(model, work, gradients=False):
    """`work()`, done with the model in eval mode and with or without gradients; afterwards both are as they were.

    No context for `with`: Python looks for Ctrl-C as it enters a function, so one that ends a context may do nothing.
    """
    modes, had_gradients = [(layer, layer.training) for layer in model.modules()], torch.is_grad_enabled()

    def put_back():
        torch.set_grad_enabled(had_gradients)
        for layer, training in modes:                # a frozen layer may have been in eval mode by itself
            layer.training = training

    try:
        model.eval()
        torch.set_grad_enabled(gradients)
        return work()
    finally:
        try:
            put_back()
        except KeyboardInterrupt:                    # Ctrl-C in the middle would leave some layers in the other mode
            put_back()
            raise


class Progress(tqdm):
    """tqdm's bar as plain text: rewritten in place in a notebook and in a terminal, one line per bar elsewhere.

    tqdm's own notebook bar is a widget, which is empty in a stored notebook; its text bar writes to stderr.
    """

    def __init__(self, *args, **kwargs):
        self.handle = self.shown = None
        kernel = sys.modules.get("ipykernel.kernelapp")
        in_kernel = kernel is not None and kernel.IPKernelApp.initialized()
        if in_kernel:
            from IPython.display import display

            self.handle = display({"text/plain": ""}, raw=True, display_id=True)
        # A log file or a pipe gets the finished bar only, not one line every half second.
        patience = 0.5 if in_kernel or sys.stdout.isatty() else float("inf")
        # tqdm ends a bar with a new line; in a notebook nobody is to see that.
        file = io.StringIO() if in_kernel else sys.stdout
        super().__init__(*args, file=file, mininterval=patience, ncols=96, ascii=False if in_kernel else None, **kwargs)

    def display(self, msg=None, pos=None):
        if self.handle is None:
            return super().display(msg, pos)
        text = msg if msg is not None else str(self)
        if text and text != self.shown:
            self.shown = text
            self.handle.update({"text/plain": text}, raw=True)
        return True


def patiently(fetch, received):
    """The result of `fetch()`, a download; TimeoutError when nothing arrives for PATIENCE seconds.

    `received()` is a number that changes while data comes in, such as the size of a file. What `fetch` raises is raised.
    """
    outcome = {}

    def work():
        try:
            outcome["result"] = fetch()
        except BaseException as problem:             # handed over to the thread that waits
            outcome["problem"] = problem

    # A thread, because looking up a host name obeys no time limit; the time limit of sockets covers all the rest.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    thread, since, last = threading.Thread(target=work, daemon=True), time.monotonic(), received()
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            now = received()
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise TimeoutError(f"the network did not answer for {PATIENCE} seconds")
    finally:
        socket.setdefaulttimeout(before)
    if "problem" in outcome:
        raise outcome["problem"]
    return outcome["result"]


@contextmanager
def written_whole(path):
    """Yield a temporary path beside `path` and rename it to `path` at the end: readers never see half a file.

    If anything fails, the temporary file is removed and an older file at `path` stays as it was; after a power cut too.
    A process that is killed leaves its temporary file behind; the first write to `path` an hour later removes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # By age: whether process 7 lives cannot be told where several machines or containers write to one disk.
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):
        with suppress(OSError):                      # another process was quicker
            if time.time() - left.stat().st_mtime > LEFT_BEHIND:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        # Else a power cut could leave the new name with nothing in it yet. The folder needs no such care: without it the old
        # name may come back, which is whole.
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
