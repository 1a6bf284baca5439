"""The race: the plain program against the course's recipes; same machine, same split, several seeds, in turn.

    python tests/benchmarks/race.py [--seeds 0 1 2] [--runs quick:0.8 good+stem:5.5] [--out FILE.json]

A run is RECIPE:EPOCHS; +stem gives its ViT the convolutional stem. Needs EuroSAT.zip, in EUROSAT_ROOT or in
the folder that --root names. Each run is a process of its own. Its clock starts when Python and PyTorch are
loaded and the JPEG files are on the disk, covers everything up to the trained model, and is stopped during
tests. The course decodes the files once, which is measured apart.
"""

import os
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from unittest import mock

import torch
import torchvision.transforms as T
from record import in_own_process, make_parser, peak_memory, record
from results import race_rows, table
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import EuroSAT

from vit_helpers import RECIPES, Tiles, VisionTransformer, evaluate, fit, load_tiles
from vit_helpers.eurosat import COUNTS
from vit_helpers.runtime import has_fast_bf16, pick_device


class PlainViT(nn.Module):
    """Post-norm `nn.TransformerEncoder`, CLS token, random positions: (B, 3, 64, 64) -> logits (B, 10)."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 128, kernel_size=8, stride=8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 128))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + 8 * 8, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(128, 10)

    def forward(self, images):
        x = self.patch_embed(images).flatten(2).transpose(1, 2)                      # (B, N, D)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)             # (B, N+1, D)
        return self.head(self.encoder(x + self.pos_embed)[:, 0])


def split_positions():
    """The course's 80/20 split as positions in torchvision's EuroSAT: [training, test], lists of int."""
    labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    tiles = Tiles(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)          # no pixels needed
    return [part.index.tolist() for part in tiles.split()]


def run_plain(root, seed, epochs):
    """Train PlainViT on the JPEG files in `root`: the seconds and the test accuracy after each epoch."""
    device, (train_index, test_index), curve = pick_device(), split_positions(), []
    clock = -perf_counter()                          # stopped during the tests
    torch.manual_seed(seed)
    transform = T.Compose([T.Resize(64), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])
    data = EuroSAT(root, transform=transform)        # which decodes its images anew in every epoch
    train_loader = DataLoader(Subset(data, train_index), batch_size=64, shuffle=True)
    test_loader = DataLoader(Subset(data, test_index), batch_size=64)
    model = PlainViT().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        clock += perf_counter()
        model.eval()
        with torch.no_grad():
            hits = [(model(x.to(device)).argmax(dim=1).cpu() == y).float() for x, y in test_loader]
        curve.append((clock, torch.cat(hits).mean().item()))
        clock -= perf_counter()
    return {"seconds": curve[-1][0], "accuracy": curve[-1][1], "curve": curve, "peak_mb": peak_memory() / 1e6}


def run_course(root, seed, recipe, epochs, bf16):
    """One run of a recipe of the course; `best` is also judged with eight views."""
    started = perf_counter()
    train, test = load_tiles("eurosat", root=root).split()
    torch.manual_seed(seed)
    settings = replace(RECIPES[recipe.removesuffix("+stem")], bf16=bf16)
    shape = {**settings.model, "stem": "conv"} if recipe.endswith("+stem") else settings.model
    model = VisionTransformer(**shape)
    fit(model, train, epochs=epochs, recipe=settings, seed=seed)
    seconds = perf_counter() - started
    result = {"seconds": seconds, "accuracy": evaluate(model, test).accuracy}
    if recipe == "best":
        result["accuracy_8_views"] = evaluate(model, test, views=8).accuracy
    return {**result, "curve": [(seconds, result["accuracy"])], "peak_mb": peak_memory() / 1e6}


def decode(root):
    """The seconds that it takes to decode the 27,000 files once, into an empty cache."""
    started = perf_counter()
    load_tiles("eurosat", root=root)
    return perf_counter() - started


def unpack(root, folder):
    """The JPEG files under `folder`, in torchvision's layout, from the EuroSAT.zip in `root`. Not timed."""
    zipfile.ZipFile(Path(root, "EuroSAT.zip")).extractall(Path(folder, "eurosat"))
    return folder


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=["quick:0.8", "best:20"], help="RECIPE:EPOCHS")
    parser.add_argument("--float32", nargs="*", default=["quick:0.8"], help="runs of the course without bf16")
    parser.add_argument("--plain-epochs", type=int, default=5)
    parser.add_argument("--root", default=os.environ.get("EUROSAT_ROOT", "."))
    parser.add_argument("--out", help="another file for the measurements")
    args = parser.parse_args()
    field = {"plain": (run_plain, {"epochs": args.plain_epochs})}
    for run, bf16 in [(run, True) for run in args.runs] + [(run, False) for run in args.float32]:
        recipe, epochs = run.split(":")
        name = f"{recipe}, {epochs} epoch{'s'[:epochs != '1']}{'' if bf16 else ', float32'}"
        field[name] = run_course, {"recipe": recipe, "epochs": float(epochs), "bf16": bf16}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, VIT_CACHE=f"{folder}/cache"):
        files = unpack(args.root, Path(folder, "files"))
        facts = {"seeds": [], "decode_seconds": in_own_process(decode, root=files),
                 "runs": {name: [] for name in field}}
        for seed in args.seeds:                      # in turn, so that a noisy hour harms all alike
            for name, (function, settings) in field.items():
                run = in_own_process(function, root=files, seed=seed, **settings)
                facts["runs"][name].append(run)
                print(f"seed {seed}, {name}: {run['seconds']:.1f} s, {run['accuracy']:.2%}", flush=True)
            facts["seeds"].append(seed)              # recorded after each: a later failure loses nothing
            record("race" if has_fast_bf16(pick_device()) else "race-float32", facts, args.out)
    print(table(race_rows(facts)))


if __name__ == "__main__":
    main()
