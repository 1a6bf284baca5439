"""What adapts a run to the place it runs in: its device, its tests, its progress bar, its files."""

import io
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm


def smoke():
    """Whether the environment variable VIT_SMOKE asks for a test's short run: few tiles, few steps."""
    return os.environ.get("VIT_SMOKE", "0") not in ("", "0")


def rounds(n):
    """How often a timing loop repeats: n times, in a test's short run once."""
    return 1 if smoke() else n


def pick_device(device=None):
    """The torch.device to use: the one asked for, else CUDA where there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def has_fast_bf16(device):
    """Whether matrix products are faster in bfloat16 on `device`: a CPU needs AMX or AVX512-BF16 for that."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    units = getattr(torch.cpu, "get_capabilities", dict)()       # older torch cannot tell: float32
    used = torch.backends.cpu.get_cpu_capability() != "AVX2"     # ATEN_CPU_CAPABILITY=avx2 leaves them unused
    return device.type == "cpu" and used and bool(units.get("amx_bf16") or units.get("avx512_bf16"))


@contextmanager
def eval_mode(model):
    """Inside the block the model is in eval mode; afterwards each layer is back in its own mode."""
    modes = [(layer, layer.training) for layer in model.modules()]
    try:                                                         # Ctrl-C may come in the middle of eval()
        yield model.eval()
    finally:
        for layer, training in modes:                            # a frozen layer may have been in eval mode
            layer.training = training


class Progress(tqdm):
    """tqdm's bar as plain text, not as the widget that a stored notebook loses; in a log file one line."""

    def __init__(self, *args, **kwargs):
        self.handle, kernel = None, sys.modules.get("ipykernel.kernelapp")
        if kernel is not None and kernel.IPKernelApp.initialized():
            from IPython.display import display

            self.handle = display({"text/plain": ""}, raw=True, display_id=True)
        often = self.handle is not None or sys.stdout.isatty()   # a log file gets the finished bar only
        super().__init__(*args, file=io.StringIO() if self.handle else sys.stdout, ncols=96,
                         mininterval=0.5 if often else float("inf"), **kwargs)

    def display(self, msg=None, pos=None):
        if self.handle is None:
            return super().display(msg, pos)
        if text := msg if msg is not None else str(self):
            self.handle.update({"text/plain": text}, raw=True)
        return True


@contextmanager
def atomic_write(path):
    """Yield a path beside `path`, renamed to it at the end, removed if anything fails: never half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
