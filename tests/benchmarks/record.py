"""Measurements live in two small JSON files, each with the command that makes it again, date and machine.

What lessons plot is in vit_helpers/measured.json, in the package; the rest in measurements.json.
"""

import argparse
import json
import os
import platform
import re
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import torch

from vit_helpers import has_fast_bf16, pick_device
from vit_helpers.pretrained import MEASURED
from vit_helpers.runtime import atomic_write

OTHERS = Path(__file__).with_name("measurements.json")
IN_LESSONS = ("learning_rate", "walk", "patch_size", "positions", "optimizers", "rivals", "images", "compute",
              "places", "stem", "teacher", "heads", "photos", "todays", "labels", "words", "race",
              "best-eurosat", "conv-eurosat")


def make_parser(description):
    """A parser of command lines that shows `description`, a module's docstring, as it is written."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=form)


def machine():
    """What the numbers depend on besides the code, in words."""
    device, cpuinfo = pick_device(), Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text("utf-8")) if cpuinfo.exists() else []
    cpu = names[0] if names else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    return (f"{cpu}, {os.cpu_count()} cores, threads: {torch.get_num_threads()} · {gpu} · "
            f"{'with' if has_fast_bf16(device) else 'without'} fast bf16 · PyTorch {torch.__version__}")


def in_own_process(function, **settings):
    """What `function` returns in a fresh process: only there is the peak of the memory its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, **settings).result()


def peak_memory():
    """The most bytes in use so far, by this process or on its GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if peak := peak_memory_of("self"):
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss        # bytes on macOS


def peak_memory_of(process):
    """The most bytes that a process has held so far, where Linux tells; its ru_maxrss survives fork."""
    status = Path(f"/proc/{process}/status")
    return int(re.search(r"VmHWM:\s*(\d+)", status.read_text("utf-8"))[1]) * 1024 if status.exists() else None


def stored():
    """All measurements of both files by name, a dict."""
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in (MEASURED, OTHERS)]
    return {**parts[0], **parts[1]}


def record(name, facts, path=None):
    """Store `facts` (a dict that JSON can hold) under `name`, beside this command, date and machine."""
    path = Path(path or (MEASURED if name in IN_LESSONS else OTHERS))
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    command = shlex.join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    command = re.sub(r" --(out|folder|root|weights) \S+", "", command)       # places mean nothing elsewhere
    facts = json.loads(json.dumps(facts), parse_float=lambda text: round(float(text), 5))
    everything[name] = {"command": command, "date": date.today().isoformat(), "machine": machine(), **facts}
    text = json.dumps(everything, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\d\s.,e+-]*\]", lambda found: "".join(found[0].split()), text)   # numbers closer
    for inner in (r"\[[^][{}]*\]", r"{[^{}]*}"):          # a row on one line
        text = re.sub(inner, lambda found: " ".join(found[0].split()), text)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
