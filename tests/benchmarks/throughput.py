"""How fast the course's model and pipeline are, beside their peers, and how time and memory grow with their size.

python tests/benchmarks/throughput.py [--rounds 8] [--batch-size 64] [--sections peers pipeline growth] [--out FILE.json]

`peers` needs timm and vit-pytorch (both in the extra `test`). `pipeline` reads EuroSAT where EUROSAT_ROOT names it (see
`load_tiles`), else synthetic tiles. `growth` on a CPU needs Linux or macOS. OMP_NUM_THREADS sets a CPU's threads.
Close other programs first: they take more from some rounds than from others.
"""

import argparse
import contextlib
import io
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from record import machine, peak_memory, record

from vit_helpers import CLASSES, GOOD, Tiles, VisionTransformer, batches, eurosat, fit, has_fast_bf16, load_tiles, pick_device
from vit_helpers.recipes import make_optimizers
from vit_helpers.synthetic import synthetic_tiles

GEOMETRY = dict(img_size=64, patch_size=8, num_classes=10, embed_dim=128, depth=4, num_heads=4, mlp_dim=256)
FACTORS = {"patch size": (16, 8, 4), "image size": (64, 96, 128), "width": (64, 128, 192, 256), "depth": (2, 4, 8),
           "batch": (32, 64, 128)}


def synchronize(device):
    if device.type == "cuda":                        # a GPU works on while Python's clock already stands
        torch.cuda.synchronize(device)


def in_turn(steps, rounds, device, warmup=3):
    """Seconds of each step as {name: [one for each round]}.

    In each round everyone goes once, so a slow moment of the machine hits all alike; the order changes from round to
    round, so nobody always finds the caches as the same neighbor left them.
    """
    seconds, order, shuffle = {name: [] for name in steps}, list(steps), random.Random(0).shuffle
    for i in range(warmup + rounds):
        shuffle(order)
        for name in order:
            synchronize(device)
            started = perf_counter()
            steps[name]()
            synchronize(device)
            if i >= warmup:
                seconds[name].append(perf_counter() - started)
    return seconds


def speedup(ours, theirs):
    """How many times faster ours is: the median over the rounds, each compared within itself."""
    return median(b / a for a, b in zip(ours, theirs, strict=True))


# Peers: the same model by other hands

def contestants(geometry=GEOMETRY):
    """{name: (model, difference)}: four models of one geometry, exact GELU, no dropout, an answering CLS token."""
    from timm.models.vision_transformer import VisionTransformer as Timm
    from torchvision.models.vision_transformer import VisionTransformer as Torchvision
    from vit_pytorch import ViT

    size, patch, width, heads = (geometry[name] for name in ("img_size", "patch_size", "embed_dim", "num_heads"))
    depth, mlp, classes = geometry["depth"], geometry["mlp_dim"], geometry["num_classes"]
    timm = {name: value for name, value in geometry.items() if name != "mlp_dim"}
    return {
        "ours": (VisionTransformer(**geometry, dropout=0.0, positions="learned", pool="cls"), ""),
        "timm": (Timm(**timm, mlp_ratio=mlp / width), ""),
        "torchvision": (Torchvision(size, patch, depth, heads, width, mlp, num_classes=classes), ""),
        "vit-pytorch": (ViT(image_size=size, patch_size=patch, num_classes=classes, dim=width, depth=depth, heads=heads,
                            dim_head=width // heads, mlp_dim=mlp),
                        f"{named_difference(geometry):+}: norms before and after the patch embedding, no qkv bias"),
    }


def named_difference(geometry=GEOMETRY):
    """How many parameters vit-pytorch's two more norms and missing biases make."""
    pixels, width = 3 * geometry["patch_size"] ** 2, geometry["embed_dim"]
    return 2 * pixels + 2 * width - geometry["depth"] * 3 * width


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def training_step(model, images, labels, optimizers, bf16, label_smoothing=0.0):
    """A function of no arguments: forward, loss, backward, step, zero_grad, always on the same batch."""
    def step():
        # Entered for each step anew, as in `fit`: autocast keeps its bf16 copies of the weights until it is left.
        with torch.autocast(images.device.type, torch.bfloat16, bf16):
            logits = model(images)
        F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing).backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()

    model.train()
    return step


def inference_step(model, images, bf16):
    @torch.no_grad()
    def step():
        with torch.autocast(images.device.type, torch.bfloat16, bf16):
            model(images)

    model.eval()
    return step


def peers(rounds=8, batch_size=64, device="cpu", geometry=GEOMETRY):
    """Rows: each contestant's images per second in training and inference, and how many times faster ours is."""
    device = torch.device(device)
    torch.manual_seed(0)
    models = {name: (model.to(device), difference) for name, (model, difference) in contestants(geometry).items()}
    images = torch.randn(batch_size, 3, geometry["img_size"], geometry["img_size"], device=device)
    labels = torch.randint(geometry["num_classes"], (batch_size,), device=device)
    rows = []
    for mode in ("training", "inference"):
        for bf16 in (False, True)[:1 + has_fast_bf16(device)]:
            if mode == "training":
                steps = {name: training_step(model, images, labels, [torch.optim.AdamW(model.parameters(), lr=1e-4)], bf16)
                         for name, (model, _) in models.items()}
            else:
                steps = {name: inference_step(model, images, bf16) for name, (model, _) in models.items()}
            seconds = in_turn(steps, rounds, device)
            rows += [dict(mode=mode, precision="bf16" if bf16 else "float32", model=name,
                          images_per_second=batch_size / median(seconds[name]),
                          ours_is_faster_by=speedup(seconds["ours"], seconds[name]),
                          parameters=parameters(model), difference=difference)
                     for name, (model, difference) in models.items()]
    return rows


# Pipeline: from files to batches

def write_synthetic(root, n):
    """`n` synthetic tiles as `root/2750/<Class>/*.jpg`, the layout of EuroSAT; returns the number of each class."""
    from PIL import Image

    images, labels = synthetic_tiles(n)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / "2750" / CLASSES[label] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path, quality=95)
    return tuple(np.bincount(labels, minlength=len(CLASSES)).tolist())


def from_files(folder, index, batch_size, workers, device):
    """The usual way: a DataLoader over JPEG files, each one read, decoded, transformed and turned by itself."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose([
        transforms.Resize(64), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(ImageFolder(folder, transform), index), batch_size, shuffle=True, num_workers=workers,
        pin_memory=device.type == "cuda")

    def feed():
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    return feed


def from_array(tiles, batch_size, device):
    """The course's way; `fit` too moves the tiles to the device once, before its clock starts."""
    return partial(batches, tiles.to(device), batch_size, shuffle=True, augment=True)


@contextlib.contextmanager
def prepared(limit, root):
    """Yield (folder of JPEG files, the same tiles decoded, seconds that this took): EuroSAT, else synthetic tiles."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        temporary = Path(temporary)
        stack.enter_context(mock.patch.dict(os.environ, VIT_CACHE=str(temporary / "cache")))     # nothing decoded before
        if root:
            folder = place = eurosat._locate(root)
            if place.is_file():
                folder = temporary / "2750"
                zipfile.ZipFile(place).extractall(temporary)
        else:
            root, folder = temporary, temporary / "2750"
            counts = write_synthetic(root, limit)
            # So that the very function that decodes EuroSAT takes these few tiles.
            stack.enter_context(mock.patch.multiple(eurosat, COUNTS=counts, SHAPE=(sum(counts), 3, 64, 64)))
        started = perf_counter()
        tiles = load_tiles("eurosat", root=root)
        yield folder, tiles, perf_counter() - started


def feeds(folder, tiles, limit, batch_size, device):
    """{name: function that yields one epoch of batches}, all of the same `limit` tiles, drawn from all classes."""
    index = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    ways = {f"JPEG files, {workers} workers": from_files(folder, index, batch_size, workers, device) for workers in (0, 2)}
    return {"ours": from_array(tiles.select(index), batch_size, device), **ways}


def pipeline(limit=5000, rounds=3, batch_size=64, device="cpu", root=None):
    """One-time decoding, then rows: images per second of one epoch of `limit` images in each way.

    Each epoch of a DataLoader includes the start of its workers, as it does in training. The files were just written,
    so they come from memory, not from a disk: the kindest case for them. Unpacking the archive is not timed.
    """
    device = torch.device(device)
    root = root or os.environ.get("EUROSAT_ROOT")
    with prepared(limit, root) as (folder, tiles, decoding):
        ways = feeds(folder, tiles, limit, batch_size, device)
        images = {name: sum(len(labels) for _, labels in feed()) for name, feed in ways.items()}     # and a warm-up

        def epoch(feed):
            for _ in feed():
                pass

        seconds = in_turn({name: partial(epoch, feed) for name, feed in ways.items()}, rounds, device, warmup=0)
        rows = [dict(way=name, images=images[name], images_per_second=images[name] / median(seconds[name]),
                     ours_is_faster_by=speedup(seconds["ours"], seconds[name])) for name in ways]
        return dict(files="EuroSAT" if root else "synthetic tiles (EUROSAT_ROOT is not set)",
                    decoded_tiles=len(tiles), decoding_seconds=decoding, rows=rows)


# Growth: one factor at a time

def one(model, batch_size, rounds, device):
    """Train VisionTransformer(**model) for a few steps of the good recipe; only a fresh process knows its peak memory."""
    device = torch.device(device)
    # Without this the smallest case would also carry the code that torch loads at its first step.
    take_steps(dict(img_size=16, embed_dim=8, depth=1, mlp_dim=8), 2, 1, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = 0 if device.type == "cuda" else peak_memory(device)
    network, seconds = take_steps(model, batch_size, rounds, device)
    return dict(tokens=math.prod(network.grid), parameters=parameters(network), ms_per_step=median(seconds) * 1000,
                peak_memory_mb=(peak_memory(device) - before) / 1e6)


def take_steps(model, batch_size, rounds, device):
    torch.manual_seed(0)
    network = VisionTransformer(**GOOD.model, **model).to(device)
    images, labels = torch.randn(batch_size, 3, *network.img_size, device=device), torch.arange(batch_size, device=device) % 10
    step = training_step(network, images, labels, make_optimizers(network, GOOD), GOOD.bf16 and has_fast_bf16(device),
                         GOOD.label_smoothing)
    return network, in_turn({"step": step}, rounds, device)["step"]


def changed(what, value, batch_size):
    """The arguments of `one` with a single factor moved; the base geometry is the default of VisionTransformer."""
    models = {"patch size": dict(patch_size=value), "image size": dict(img_size=value), "depth": dict(depth=value),
              "width": dict(embed_dim=value, mlp_dim=2 * value)}              # four heads at every width
    return dict(model=models.get(what, {}), batch_size=value if what == "batch" else batch_size)


def growth(factors=FACTORS, rounds=8, batch_size=64, device="cpu"):
    """Rows: time of a training step and peak memory, each in a fresh process; the base comes back in every factor."""
    rows = []
    for what, values in factors.items():
        for value in values:
            arguments = json.dumps(dict(changed(what, value, batch_size), rounds=rounds, device=str(device)))
            done = subprocess.run([sys.executable, __file__, "--one", arguments], stdout=subprocess.PIPE, text=True, check=True)
            rows.append(dict(what=what, value=value, **json.loads(done.stdout)))
    return rows


def data_growth(sizes=(1000, 5000), batch_size=64, device="cpu", predicted=21_600):
    """Rows: seconds of one epoch of `fit` on so many tiles; the last row is predicted from the largest measured one."""
    rows, random_state, recipe = [], np.random.RandomState(0), replace(GOOD, batch_size=batch_size)
    for n in sizes:
        # Noise takes as long as pictures do. Two epochs, because the first one also warms up.
        tiles = Tiles(random_state.randint(0, 256, (n, 3, 64, 64), np.uint8), np.arange(n) % 10)
        with contextlib.redirect_stdout(io.StringIO()):                       # the progress bar
            seconds = fit(VisionTransformer(**GOOD.model), tiles, epochs=2, recipe=recipe, device=device).seconds[-1]
        rows.append(dict(what="data", value=n, seconds_per_epoch=seconds, images_per_second=n / seconds, how="measured"))
    speed = rows[-1]["images_per_second"]
    return [*rows, dict(what="data", value=predicted, seconds_per_epoch=predicted / speed, images_per_second=speed,
                        how=f"predicted from {sizes[-1]}")]


# Tables and the command line

def written(value):
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def print_table(rows):
    names = list(rows[0])
    lines = [[name.replace("_", " ") for name in names], *([written(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for line in lines:
        cells = zip(line, widths, rows[0].values(), strict=True)
        print("  ".join(c.ljust(w) if isinstance(v, str) else c.rjust(w) for c, w, v in cells).rstrip())
    print()


def print_section(title, facts, result):
    print(title, ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in facts.items()), "", sep="\n")
    for rows in [result] if isinstance(result, list) else result.values():
        if isinstance(rows, list) and rows:
            print_table(rows)
    if "decoding_seconds" in result:
        print(f"{result['files']}: {result['decoded_tiles']:,} tiles decoded once in {result['decoding_seconds']:.1f} s\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=["peers", "pipeline", "growth"],
                        choices=("peers", "pipeline", "growth"))
    parser.add_argument("--rounds", type=int, default=8, help="timed steps of each contestant, after three of warm-up")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", help="default: CUDA where there is one")
    parser.add_argument("--limit", type=int, default=5000, help="images in one epoch of the pipeline, at least 10")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of the pipeline")
    parser.add_argument("--factors", nargs="*", default=list(FACTORS), choices=FACTORS, help="what grows besides the data")
    parser.add_argument("--tiles", nargs="+", type=int, default=[1000, 5000], help="tiles in the measured epochs of `fit`")
    parser.add_argument("--out", type=Path, help="another file than vit_helpers/measured.json")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(**args.one)))
        return
    if args.out:                                     # better to fail before the minutes of measuring
        args.out.parent.mkdir(parents=True, exist_ok=True)
    device = pick_device(args.device)
    results = {}
    sections = {
        "peers": lambda: peers(args.rounds, args.batch_size, device),
        "pipeline": lambda: pipeline(args.limit, args.epochs, args.batch_size, device),
        "growth": lambda: dict(
            model=growth({what: FACTORS[what] for what in args.factors}, args.rounds, args.batch_size, device),
            data=data_growth(args.tiles, args.batch_size, device)),
    }
    for name in args.sections:
        results[name] = sections[name]()
        print_section(name, machine(device), results[name])
        record(name, {"result": results[name]}, args.out)        # after each section: a later failure loses nothing


if __name__ == "__main__":
    main()
