"""Measured results are kept in one small file, vit_helpers/measured.json, each with the command that makes it again."""

import json
import os
import platform
import shlex
import sys
from pathlib import Path

import torch

from vit_helpers import has_fast_bf16, pick_device
from vit_helpers.pretrained import MEASURED
from vit_helpers.runtime import written_whole


def machine(device=None):
    """What the numbers depend on besides the code, as a dict."""
    device = pick_device(device)
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in facts if line.startswith("model name")]
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return dict(cpu=names[0] if names else platform.processor() or platform.machine(), cores=os.cpu_count(),
                threads=torch.get_num_threads(), torch=torch.__version__, device=gpu or str(device),
                fast_bf16=has_fast_bf16(device))


def peak_memory(device):
    """The most bytes in use so far, by this process or on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = peak_memory_of("self")
    if peak:
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss       # bytes on macOS


def peak_memory_of(process):
    """The most bytes that a running process, by its number, has held in memory so far; None where Linux does not tell.

    Not getrusage: on Linux its ru_maxrss lives on through fork and exec, so a small child of a benchmark would report the
    peak of its parent, which has trained four models.
    """
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def record(name, facts, path=None):
    """Put `facts` (a dict that JSON can hold) under `name` into the file, with this command and machine beside them."""
    path = Path(path or MEASURED)
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    words = list(sys.argv[1:])
    for place in ("--out", "--folder"):              # where files went on this machine is of no use on another
        if place in words:
            at = words.index(place)
            del words[at:at + 2]
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    command = shlex.join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *words])
    everything[name] = {"command": command, "machine": machine(), **facts}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
