"""How fast the course's model and pipeline are beside their peers, and how time and memory grow with size.

    python tests/benchmarks/throughput.py [--sections peers pipeline growth] [--rounds 8] [--out FILE.json]

`peers` needs timm and vit-pytorch (both in the extra `test`), `pipeline` EuroSAT.zip in EUROSAT_ROOT,
`growth` on a CPU Linux or macOS. Close other programs first.
"""

import math
import os
import random
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from race import unpack
from record import in_own_process, make_parser, peak_memory, record
from results import rows_of, table

from vit_helpers import GOOD, Tiles, VisionTransformer, batches, fit, has_fast_bf16, pick_device
from vit_helpers.recipes import make_optimizers

BATCH = 64
FACTORS = {"patch size": ("patch_size", (16, 8, 4)), "image size": ("img_size", (64, 96, 128)),
           "width": ("embed_dim", (64, 128, 192, 256)), "depth": ("depth", (2, 4, 8)),
           "batch": ("batch_size", (32, 64, 128))}


def synchronize():
    if torch.cuda.is_available():                    # a GPU still works when Python goes on
        torch.cuda.synchronize()


def in_turn(steps, rounds, warmup=3):
    """Seconds of each step, {name: [one for each round]}; everyone goes once a round, in changing order."""
    seconds, order, shuffle = {name: [] for name in steps}, list(steps), random.Random(0).shuffle
    for i in range(warmup + rounds):
        shuffle(order)
        for name in order:
            synchronize()
            started = perf_counter()
            steps[name]()
            synchronize()
            if i >= warmup:
                seconds[name].append(perf_counter() - started)
    return seconds


def speeds(seconds, images):
    """For each name of `in_turn`: images per second, and the median ratio to ours over the rounds."""
    return {name: {"images_per_second": images / median(theirs),
                   "ours_is_faster_by": median(b / a for a, b in zip(seconds["ours"], theirs, strict=True))}
            for name, theirs in seconds.items()}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def contestants():
    """Four models of one geometry by name, with exact GELU, no dropout and a CLS token."""
    from timm.models.vision_transformer import VisionTransformer as Timm
    from torchvision.models.vision_transformer import VisionTransformer as Torchvision
    from vit_pytorch import ViT

    return {"ours": VisionTransformer(dropout=0.0),
            "timm": Timm(64, 8, num_classes=10, embed_dim=128, depth=4, num_heads=4, mlp_ratio=2),
            "torchvision": Torchvision(64, 8, 4, 4, 128, 256, num_classes=10),
            "vit-pytorch": ViT(image_size=64, patch_size=8, num_classes=10, dim=128, depth=4, heads=4,
                               dim_head=32, mlp_dim=256)}


def step_of(model, images, bf16, labels=None, optimizers=(), label_smoothing=0.0):
    """A function of no arguments: a training step on this batch, or without `labels` a forward pass."""
    training = labels is not None
    model.train(training)

    def step():
        # Entered anew for each step, as in `fit`: autocast keeps bf16 copies of the weights until it is left.
        with torch.autocast(images.device.type, torch.bfloat16, bf16), torch.set_grad_enabled(training):
            logits = model(images)
        if training:
            F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    return step


def peers(args):
    """Rows: each contestant's images per second in training and inference, and how much faster ours is."""
    torch.manual_seed(0)
    device, rows = pick_device(), []
    models = {name: model.to(device) for name, model in contestants().items()}
    images, labels = torch.randn(BATCH, 3, 64, 64, device=device), torch.arange(BATCH, device=device) % 10
    for mode, answers in (("training", labels), ("inference", None)):
        for bf16 in (False, True)[:1 + has_fast_bf16(device)]:
            steps = {name: step_of(m, images, bf16, answers, [torch.optim.AdamW(m.parameters(), lr=1e-4)])
                     for name, m in models.items()}
            for name, speed in speeds(in_turn(steps, args.rounds), BATCH).items():
                more = parameters(models[name]) - parameters(models["ours"])
                why = f"{more:+}: norms before and after the patch embedding, no qkv bias" if more else ""
                rows.append({"mode": mode, "precision": "bf16" if bf16 else "float32", "model": name, **speed,
                             "parameters": parameters(models[name]), "difference": why})
    return rows


def from_files(folder, index, workers, device):
    """The usual way: a DataLoader over JPEG files; each is read, decoded and transformed by itself."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose([
        transforms.Resize(64), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()])
    chosen = torch.utils.data.Subset(ImageFolder(folder, transform), index)
    loader = torch.utils.data.DataLoader(chosen, BATCH, shuffle=True, num_workers=workers,
                                         pin_memory=device.type == "cuda")
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def pipeline(args):
    """One-time decoding, then rows: images per second of one epoch of `limit` images in each way.

    An epoch of a DataLoader includes the start of its workers, and its files come from memory.
    """
    device = pick_device()
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, VIT_CACHE=f"{place}/cache"):
        folder = Path(unpack(os.environ.get("EUROSAT_ROOT", "."), place), "eurosat", "2750")
        started = perf_counter()
        tiles = Tiles.from_folder(folder)
        decoding = perf_counter() - started
        index = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))[:args.limit].tolist()
        chosen = tiles.select(index).to(device)      # `fit` too moves the tiles to the device once
        ways = {"ours": partial(batches, chosen, BATCH, shuffle=True, augment=True)}
        for workers in (0, 2):
            ways[f"JPEG files, {workers} workers"] = partial(from_files, folder, index, workers, device)

        def epoch(feed):
            return sum(len(labels) for _, labels in feed())

        images = {name: epoch(feed) for name, feed in ways.items()}          # counting them warms up as well
        seconds = in_turn({name: partial(epoch, feed) for name, feed in ways.items()}, args.epochs, warmup=0)
        rows = [{"way": name, "images": images[name], **speed}
                for name, speed in speeds(seconds, args.limit).items()]
        return {"files": "EuroSAT", "decoded_tiles": len(tiles), "decoding_seconds": decoding, "rows": rows}


def take_steps(rounds, batch_size=BATCH, embed_dim=128, **changes):
    """A model with these arguments, and the seconds of a few steps of the good recipe with all patches."""
    torch.manual_seed(0)
    device = pick_device()
    model = VisionTransformer(embed_dim=embed_dim, mlp_dim=2 * embed_dim, **GOOD.model, **changes).to(device)
    images = torch.randn(batch_size, 3, *model.img_size, device=device)
    step = step_of(model, images, has_fast_bf16(device), torch.arange(batch_size, device=device) % 10,
                   make_optimizers(model, GOOD), GOOD.label_smoothing)
    return model, in_turn({"step": step}, rounds)["step"]


def size_of_steps(**settings):
    """Time and memory of the steps, in a process of its own: a peak does not go down again."""
    take_steps(1, 2, embed_dim=8, img_size=16, depth=1)      # torch loads much at its first step
    before = 0 if torch.cuda.is_available() else peak_memory()
    model, seconds = take_steps(**settings)
    return {"tokens": math.prod(model.grid), "parameters": parameters(model),
            "ms_per_step": median(seconds) * 1000, "peak_memory_mb": (peak_memory() - before) / 1e6}


def growth(args):
    """Rows: time and peak memory of a step, one factor at a time; and seconds of an epoch by its tiles."""
    model = [{"what": what, "value": value,
              **in_own_process(size_of_steps, rounds=args.rounds, **{argument: value})}
             for what, (argument, values) in FACTORS.items() for value in values]
    data, random_state = [], np.random.RandomState(0)
    for n in args.tiles:                             # noise takes as long as pictures do
        tiles = Tiles(random_state.randint(0, 256, (n, 3, 64, 64), np.uint8), np.arange(n) % 10)
        history = fit(VisionTransformer(**GOOD.model), tiles, epochs=2)
        seconds = history.seconds[-1]                # the first epoch warms up
        data.append({"what": "data", "value": n, "seconds_per_epoch": seconds,
                     "images_per_second": n / seconds})
    return {"model": model, "data": data}


def main():
    sections = {"peers": peers, "pipeline": pipeline, "growth": growth}
    parser = make_parser(__doc__)
    parser.add_argument("--sections", nargs="+", default=list(sections), choices=sections)
    parser.add_argument("--rounds", type=int, default=8, help="timed steps, after three of warm-up")
    parser.add_argument("--limit", type=int, default=5000, help="images in an epoch of the pipeline")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of the pipeline")
    parser.add_argument("--tiles", nargs="+", type=int, default=[1000, 5000], help="in epochs of `fit`")
    parser.add_argument("--out", help="another file for the measurements")
    args = parser.parse_args()
    for name in args.sections:                       # recorded one by one: a later failure loses nothing
        facts = {"result": sections[name](args)}
        print(*map(table, rows_of(facts)), sep="\n\n")
        record(name, facts, args.out)


if __name__ == "__main__":
    main()
