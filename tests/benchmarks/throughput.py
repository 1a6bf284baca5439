"""How fast the course's model and pipeline are beside their peers, and how time and memory grow with size.

    python tests/benchmarks/throughput.py [--sections peers pipeline growth] [--rounds 8] [--out FILE.json]

`peers` needs timm and vit-pytorch (both in the extra `test`), `pipeline` EuroSAT.zip in EUROSAT_ROOT,
`growth` on a CPU Linux or macOS. OMP_NUM_THREADS sets a CPU's threads. Close other programs first: they take
more from some rounds than from others.
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
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from race import unpack
from record import make_parser, peak_memory, record
from results import table

from vit_helpers import GOOD, Tiles, VisionTransformer, batches, fit, has_fast_bf16, pick_device
from vit_helpers.recipes import make_optimizers

SIZE, PATCH, CLASS_COUNT, WIDTH, DEPTH, HEADS, HIDDEN = 64, 8, 10, 128, 4, 4, 256
FACTORS = {"patch size": (16, 8, 4), "image size": (64, 96, 128), "width": (64, 128, 192, 256),
           "depth": (2, 4, 8), "batch": (32, 64, 128)}


def synchronize(device):
    if device.type == "cuda":                        # a GPU still works when Python goes on
        torch.cuda.synchronize(device)


def in_turn(steps, rounds, device, warmup=3):
    """Seconds of each step as {name: [one for each round]}.

    In each round everyone goes once, so a slow moment of the machine hits all alike; the order changes from
    round to round, so nobody always finds the caches as the same neighbor left them.
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

def contestants():
    """{name: (model, difference)}: four models of one geometry, exact GELU, no dropout, a CLS token."""
    from timm.models.vision_transformer import VisionTransformer as Timm
    from torchvision.models.vision_transformer import VisionTransformer as Torchvision
    from vit_pytorch import ViT

    ours = VisionTransformer(SIZE, PATCH, 3, CLASS_COUNT, WIDTH, DEPTH, HEADS, HIDDEN, 0.0,
                             positions="learned", pool="cls")
    timm = Timm(SIZE, PATCH, num_classes=CLASS_COUNT, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
                mlp_ratio=HIDDEN / WIDTH)
    torchvision = Torchvision(SIZE, PATCH, DEPTH, HEADS, WIDTH, HIDDEN, num_classes=CLASS_COUNT)
    other = ViT(image_size=SIZE, patch_size=PATCH, num_classes=CLASS_COUNT, dim=WIDTH, depth=DEPTH,
                heads=HEADS, dim_head=WIDTH // HEADS, mlp_dim=HIDDEN)
    more = parameters(other) - parameters(ours)
    return {"ours": (ours, ""), "timm": (timm, ""), "torchvision": (torchvision, ""),
            "vit-pytorch": (other, f"{more:+}: norms before and after the patch embedding, no qkv bias")}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def training_step(model, images, labels, optimizers, bf16, label_smoothing=0.0):
    """A function of no arguments: forward, loss, backward, step, zero_grad, always on the same batch."""
    def step():
        # Entered anew for each step, as in `fit`: autocast keeps bf16 copies of the weights until it is left.
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


def peers(rounds, batch_size, device):
    """Rows: each contestant's images per second in training and inference, and how much faster ours is."""
    torch.manual_seed(0)
    models = {name: (model.to(device), difference) for name, (model, difference) in contestants().items()}
    images = torch.randn(batch_size, 3, SIZE, SIZE, device=device)
    labels = torch.randint(CLASS_COUNT, (batch_size,), device=device)
    rows = []
    for mode in ("training", "inference"):
        for bf16 in (False, True)[:1 + has_fast_bf16(device)]:
            steps = {}
            for name, (model, _) in models.items():
                if mode == "training":
                    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
                    steps[name] = training_step(model, images, labels, [optimizer], bf16)
                else:
                    steps[name] = inference_step(model, images, bf16)
            seconds = in_turn(steps, rounds, device)
            rows += [{"mode": mode, "precision": "bf16" if bf16 else "float32", "model": name,
                      "images_per_second": batch_size / median(seconds[name]),
                      "ours_is_faster_by": speedup(seconds["ours"], seconds[name]),
                      "parameters": parameters(model), "difference": difference}
                     for name, (model, difference) in models.items()]
    return rows


# Pipeline: from files to batches

def from_files(folder, index, batch_size, workers, device):
    """The usual way: a DataLoader over JPEG files; each is read, decoded and transformed by itself."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose([
        transforms.Resize(64), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()])
    chosen = torch.utils.data.Subset(ImageFolder(folder, transform), index)
    loader = torch.utils.data.DataLoader(chosen, batch_size, shuffle=True, num_workers=workers,
                                         pin_memory=device.type == "cuda")

    def feed():
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    return feed


def pipeline(limit, rounds, batch_size, device):
    """One-time decoding, then rows: images per second of one epoch of `limit` images in each way.

    Each epoch of a DataLoader includes the start of its workers, as it does in training. The files were just
    written, so they come from memory, not from a disk: the kindest case for them. Unpacking is not timed.
    """
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, VIT_CACHE=f"{place}/cache"):
        folder = Path(unpack(os.environ.get("EUROSAT_ROOT", "."), place), "eurosat", "2750")
        started = perf_counter()
        tiles = Tiles.from_folder(folder)
        decoding = perf_counter() - started
        index = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))[:limit].tolist()
        # `fit` too moves the tiles to the device once.
        chosen = tiles.select(index).to(device)
        ways = {"ours": partial(batches, chosen, batch_size, shuffle=True, augment=True)}
        for workers in (0, 2):
            ways[f"JPEG files, {workers} workers"] = from_files(folder, index, batch_size, workers, device)
        # Counting them warms up as well.
        images = {name: sum(len(labels) for _, labels in feed()) for name, feed in ways.items()}

        def epoch(feed):
            for _ in feed():
                pass

        steps = {name: partial(epoch, feed) for name, feed in ways.items()}
        seconds = in_turn(steps, rounds, device, warmup=0)
        rows = [{"way": name, "images": images[name],
                 "images_per_second": images[name] / median(seconds[name]),
                 "ours_is_faster_by": speedup(seconds["ours"], seconds[name])} for name in ways]
        return {"files": "EuroSAT", "decoded_tiles": len(tiles), "decoding_seconds": decoding, "rows": rows}


# Growth: one factor at a time

def one(model, batch_size, rounds, device):
    """A few steps of the good recipe with VisionTransformer(**model); only a fresh process knows its peak."""
    device = torch.device(device)
    # Without this the smallest case would also carry the code that torch loads at its first step.
    take_steps({"img_size": 16, "embed_dim": 8, "depth": 1, "mlp_dim": 8}, 2, 1, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = 0 if device.type == "cuda" else peak_memory(device)
    network, seconds = take_steps(model, batch_size, rounds, device)
    return {"tokens": math.prod(network.grid), "parameters": parameters(network),
            "ms_per_step": median(seconds) * 1000, "peak_memory_mb": (peak_memory(device) - before) / 1e6}


def take_steps(model, batch_size, rounds, device):
    torch.manual_seed(0)
    network = VisionTransformer(**GOOD.model, **model).to(device)
    images = torch.randn(batch_size, 3, *network.img_size, device=device)
    labels = torch.arange(batch_size, device=device) % 10
    step = training_step(network, images, labels, make_optimizers(network, GOOD),
                         GOOD.bf16 and has_fast_bf16(device), GOOD.label_smoothing)
    return network, in_turn({"step": step}, rounds, device)["step"]


def changed(what, value, batch_size):
    """The arguments of `one` with a single factor moved; all others are the defaults of VisionTransformer."""
    models = {"patch size": {"patch_size": value}, "image size": {"img_size": value},
              "depth": {"depth": value},
              "width": {"embed_dim": value, "mlp_dim": 2 * value}}           # four heads at every width
    return {"model": models.get(what, {}), "batch_size": value if what == "batch" else batch_size}


def growth(rounds, batch_size, device):
    """Rows: time and peak memory of a training step, each in a fresh process; the base is in every factor."""
    rows = []
    for what, values in FACTORS.items():
        for value in values:
            settings = {**changed(what, value, batch_size), "rounds": rounds, "device": str(device)}
            words = [sys.executable, __file__, "--one", json.dumps(settings)]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            rows.append({"what": what, "value": value, **json.loads(done.stdout)})
    return rows


def data_growth(sizes, batch_size, device, predicted=21_600):
    """Rows: seconds of one epoch of `fit` on so many tiles; the last row is predicted from the one before."""
    rows, random_state, recipe = [], np.random.RandomState(0), replace(GOOD, batch_size=batch_size)
    for n in sizes:
        # Noise takes as long as pictures do. Two epochs, because the first one also warms up.
        tiles = Tiles(random_state.randint(0, 256, (n, 3, 64, 64), np.uint8), np.arange(n) % 10)
        with contextlib.redirect_stdout(io.StringIO()):                       # the progress bar
            history = fit(VisionTransformer(**GOOD.model), tiles, epochs=2, recipe=recipe, device=device)
        seconds = history.seconds[-1]
        rows.append({"what": "data", "value": n, "seconds_per_epoch": seconds,
                     "images_per_second": n / seconds, "how": "measured"})
    speed = rows[-1]["images_per_second"]
    return [*rows, {"what": "data", "value": predicted, "seconds_per_epoch": predicted / speed,
                    "images_per_second": speed, "how": f"predicted from {sizes[-1]}"}]


def main():
    parser = make_parser(__doc__)
    sections = ("peers", "pipeline", "growth")
    parser.add_argument("--sections", nargs="+", default=sections, choices=sections)
    parser.add_argument("--rounds", type=int, default=8, help="timed steps, after three of warm-up")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", help="default: CUDA where there is one")
    parser.add_argument("--limit", type=int, default=5000, help="images in an epoch of the pipeline")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of the pipeline")
    parser.add_argument("--tiles", nargs="+", type=int, default=[1000, 5000],
                        help="tiles in the measured epochs of `fit`")
    parser.add_argument("--out", help="another file for the measurements")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(**args.one)))
        return
    device = pick_device(args.device)
    for name in args.sections:                       # recorded one by one: a later failure loses nothing
        if name == "peers":
            result = peers(args.rounds, args.batch_size, device)
            print(table(result))
        elif name == "pipeline":
            result = pipeline(args.limit, args.epochs, args.batch_size, device)
            print(table(result["rows"]))
        else:
            result = {"model": growth(args.rounds, args.batch_size, device),
                      "data": data_growth(args.tiles, args.batch_size, device)}
            print(table(result["model"]), table(result["data"]), sep="\n\n")
        record(name, {"result": result}, args.out)


if __name__ == "__main__":
    main()
