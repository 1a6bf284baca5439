"""The weights that lesson 16 ships, trained longer than a lesson may: a tile generator and a masked autoencoder.

    python tests/benchmarks/shipped_heads.py generator [--steps 11000] [--out FOLDER]
    python tests/benchmarks/shipped_heads.py masked [--steps 8000] [--out FOLDER]

Both see the training tiles of EuroSAT's 80/20 split, seed 0, only. Settings were fixed beforehand; one seed.
"""

import argparse
from dataclasses import asdict, replace
from time import perf_counter

import torch

from vit_helpers import GOOD, VisionTransformer, flip_and_transpose, learn, load_tiles, normalize
from vit_helpers.heads import (
    DiffusionTransformer,
    MaskedAutoencoder,
    flow_matching_loss,
    masked_loss,
    random_visible,
    save_head,
)

LONG = replace(GOOD, warmup=0.03)


def generator(tiles):
    encoder = VisionTransformer(32, 4, depth=6, **GOOD.model)
    tiles = tiles.resized(32)

    def loss_of(model, random):
        chosen = torch.randint(len(tiles), (128,), generator=random)
        images = normalize(flip_and_transpose(tiles.images[chosen], random))
        return flow_matching_loss(model, images, tiles.labels[chosen], random)

    return DiffusionTransformer(encoder), loss_of


def masked(tiles):
    encoder = VisionTransformer(**GOOD.model)

    def loss_of(model, random):
        chosen = torch.randint(len(tiles), (128,), generator=random)
        images = normalize(flip_and_transpose(tiles.images[chosen], random))
        visible = random_visible(images, model.encoder.grid, generator=random)
        return masked_loss(model(images, visible), images, visible, 8)

    return MaskedAutoencoder(encoder), loss_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("generator", "masked"))
    parser.add_argument("--source", default="eurosat", choices=("eurosat", "synthetic"))
    parser.add_argument("--steps", type=int, help="of 128 tiles each")
    parser.add_argument("--out", help="another folder than the package's")
    args = parser.parse_args()
    tiles, _ = load_tiles(args.source).split(test_fraction=0.2, seed=0)
    torch.manual_seed(0)
    model, loss_of = {"generator": generator, "masked": masked}[args.which](tiles)
    steps = args.steps or {"generator": 11_000, "masked": 8_000}[args.which]
    started = perf_counter()
    losses = learn(model, loss_of, steps=steps, recipe=LONG)
    facts = {"data": f"{len(tiles):,} training tiles of {tiles.source}, split 80/20 with seed 0", "seed": 0, "steps": steps,
             "batch_size": 128, "seconds": round(perf_counter() - started), "threads": torch.get_num_threads(),
             "loss": round(sum(losses[-100:]) / len(losses[-100:]), 5), "recipe": asdict(LONG),
             "command": f"python tests/benchmarks/shipped_heads.py {args.which} --steps {steps}"}
    save_head(args.which, model, facts, **({"folder": args.out} if args.out else {}))
    print(facts)


if __name__ == "__main__":
    main()
