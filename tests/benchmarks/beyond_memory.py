"""Tiles that memory does not hold: what twenty made-up gigabytes take of it, and what reading from a disk costs.

    python tests/benchmarks/beyond_memory.py [--archive EuroSAT.zip] [--rounds 3]

With an archive: its pictures are packed once, then trained on from the disk and from memory, in turn. Recorded as
`beyond_memory`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from record import peak_memory_of, record

import vit_helpers.stored
from vit_helpers import GOOD, StoredTiles, Tiles, VisionTransformer, batches, evaluate, fit, pack

BYTES = 3 * 64 * 64                                                      # of a tile


def made_up(folder, gigabytes):
    """Train on, evaluate on and read from so many gigabytes, in files with holes, which take no place: a dict of facts.

    Only in a process of its own: `before` is its peak after a training on 2,000 tiles, `peak` after all, in MB.
    """
    folder.mkdir()
    count = int(gigabytes * 1e9 / BYTES) + 1
    shards = vit_helpers.stored._Shards(folder, count, (3, 64, 64))
    np.save(folder / "labels.npy", np.arange(count) % 10)
    facts = {"classes": list("abcdefghij"), "size": 64, "rows": shards.rows}
    (folder / "tiles.json").write_text(json.dumps(facts), encoding="utf-8")
    model = VisionTransformer(**GOOD.model, depth=1, embed_dim=16, num_heads=2, mlp_dim=16)
    fit(model, StoredTiles(folder).select(torch.arange(2000)), epochs=0.1)           # what torch itself needs
    before = peak_memory_of("self")
    train, test = StoredTiles(folder).split(0.0005)
    history = fit(model, train, epochs=40 * GOOD.batch_size / len(train))
    evaluate(model, test)                                                # some tiles of every file
    some = train.select(torch.arange(0, len(train), 64))
    read = sum(len(labels) for _, labels in batches(some, 256, shuffle=True))        # others of every file, in random order
    return {"gigabytes": sum(path.stat().st_size for path in folder.glob("*.npy")) / 1e9, "tiles": count,
            "files": len(shards.paths), "before": before // 2**20, "peak": peak_memory_of("self") // 2**20,
            "steps": len(history.step_loss), "read": read}


def in_a_process_of_its_own(folder, gigabytes=20.0):
    """`made_up` in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--made-up", str(folder), str(gigabytes)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def disk_against_memory(archive, folder, rounds):
    """Pack an archive, then train half an epoch from the disk and from memory, in turn: a dict of facts."""
    started = perf_counter()
    stored = pack(archive, folder)
    packing = perf_counter() - started
    memory = Tiles(torch.cat(list(stored.read(torch.arange(len(stored)).split(1024)))), stored.labels, stored.classes)
    seconds = {"disk": [], "memory": []}
    for _ in range(rounds):
        for name, tiles in (("disk", stored), ("memory", memory)):
            torch.manual_seed(0)
            seconds[name] += fit(VisionTransformer(**GOOD.model), tiles, epochs=0.5, recipe=GOOD).seconds
    return {"pictures": len(stored), "pictures_per_second": len(stored) / packing, "rounds": rounds,
            "disk_takes": statistics.median(d / m for d, m in zip(seconds["disk"], seconds["memory"], strict=True)),
            "memory_seconds": statistics.median(seconds["memory"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--made-up", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.made_up:
        print(json.dumps(made_up(Path(args.made_up[0]), float(args.made_up[1]))))
        return
    with tempfile.TemporaryDirectory() as place:
        facts = {"made_up": in_a_process_of_its_own(Path(place, "made-up"))}
        if args.archive:
            facts["archive"] = disk_against_memory(args.archive, Path(place, "packed"), args.rounds)
    print(json.dumps(facts, indent=1))
    record("beyond_memory", facts)


if __name__ == "__main__":
    main()
