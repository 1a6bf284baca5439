"""The weights that lesson 16 ships, trained longer than a lesson may: a generator and a masked autoencoder.

    python tests/benchmarks/shipped_heads.py generator [--steps 11000] [--out FOLDER]
    python tests/benchmarks/shipped_heads.py masked [--steps 8000] [--out FOLDER]

Both see the training tiles of EuroSAT's 80/20 split, seed 0, only. Settings were fixed beforehand; one seed.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import torch
from record import make_parser

from vit_helpers import GOOD, VisionTransformer, heads, learn, load_tiles, normalize, random_dihedral
from vit_helpers.patches import random_patches
from vit_helpers.pretrained import WEIGHTS, save_pretrained

LONG = replace(GOOD, warmup=0.03)
STEPS = {"generator": 11_000, "masked": 8_000}
BATCH = 128


def generator():
    encoder = VisionTransformer(32, 4, depth=6, **GOOD.model)
    return heads.DiffusionTransformer(encoder), heads.flow_matching_loss


def masked():
    def loss_of(model, images, labels, random):
        visible = random_patches(len(images), math.prod(model.encoder.grid), 0.25, random)
        return heads.masked_loss(model(images, visible), images, visible, 8)

    return heads.MaskedAutoencoder(VisionTransformer(**GOOD.model)), loss_of


def main():
    parser = make_parser(__doc__)
    parser.add_argument("which", choices=STEPS)
    parser.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"))
    parser.add_argument("--steps", type=int, help=f"of {BATCH} tiles each")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "heads", help="default: the package")
    args = parser.parse_args()
    tiles, _ = load_tiles(args.source).split(test_fraction=0.2, seed=0)
    torch.manual_seed(0)
    model, loss_of = {"generator": generator, "masked": masked}[args.which]()
    if args.which == "generator":
        tiles = tiles.resized(32)

    def loss_of_step(model, random):                 # tiles in random orientations
        chosen = torch.randint(len(tiles), (BATCH,), generator=random)
        images = normalize(random_dihedral(tiles.images[chosen], random))
        return loss_of(model, images, tiles.labels[chosen], random)

    steps, started = args.steps or STEPS[args.which], perf_counter()
    losses = learn(model, loss_of_step, steps=steps, recipe=LONG)[-100:]
    facts = {"data": f"{len(tiles):,} training tiles of {tiles.source}, split 80/20 with seed 0", "seed": 0,
             "steps": steps, "batch_size": BATCH, "seconds": round(perf_counter() - started),
             "threads": torch.get_num_threads(), "loss": round(sum(losses) / len(losses), 5),
             "recipe": asdict(LONG),
             "command": f"python tests/benchmarks/shipped_heads.py {args.which} --steps {steps}"}
    save_pretrained(args.which, model, facts, args.out, torch.float16)         # half the size
    print(facts)


if __name__ == "__main__":
    main()
