"""How fast the course's model is beside its peers: timm, torchvision and vit-pytorch (in the extra `test`).

    python tests/benchmarks/throughput.py [--rounds 8] [--out FILE.json]

Close other programs first.
"""

import random
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from record import make_parser, record
from results import table

from vit_helpers import VisionTransformer, has_fast_bf16, pick_device

BATCH = 64


def synchronize():
    if torch.cuda.is_available():                    # a GPU still works when Python goes on
        torch.cuda.synchronize()


def in_turn(steps, rounds, clock=perf_counter, warmup=3):
    """Seconds of each step, {name: [one for each round]}; everyone goes once a round, in changing order."""
    seconds, order, shuffle = {name: [] for name in steps}, list(steps), random.Random(0).shuffle
    for i in range(warmup + rounds):
        shuffle(order)
        for name in order:
            synchronize()
            started = clock()
            steps[name]()
            synchronize()
            if i >= warmup:
                seconds[name].append(clock() - started)
    return seconds


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


def step_of(model, images, bf16, labels=None, optimizers=()):
    """A function of no arguments: a training step on this batch, or without `labels` a forward pass."""
    training = labels is not None
    model.train(training)

    def step():
        # Entered anew for each step, as in `fit`: autocast keeps bf16 copies of the weights until it is left.
        with torch.autocast(images.device.type, torch.bfloat16, bf16), torch.set_grad_enabled(training):
            logits = model(images)
        if training:
            F.cross_entropy(logits.float(), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    return step


def peers(rounds):
    """Rows: each contestant's images per second in training and inference, and how much faster ours is."""
    torch.manual_seed(0)
    device, rows = pick_device(), []
    models = {name: model.to(device) for name, model in contestants().items()}
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    images, labels = torch.randn(BATCH, 3, 64, 64, device=device), torch.arange(BATCH, device=device) % 10
    for mode, answers in (("training", labels), ("inference", None)):
        for bf16 in (False, True)[:1 + has_fast_bf16(device)]:
            steps = {name: step_of(m, images, bf16, answers, [torch.optim.AdamW(m.parameters(), lr=1e-4)])
                     for name, m in models.items()}
            seconds = in_turn(steps, rounds)
            for name, theirs in seconds.items():
                ratio = median(b / a for a, b in zip(seconds["ours"], theirs, strict=True))
                more = parameters[name] - parameters["ours"]
                why = f"{more:+}: norms before and after the patch embedding, no qkv bias" if more else ""
                rows.append({"mode": mode, "precision": "bf16" if bf16 else "float32", "model": name,
                             "images_per_second": BATCH / median(theirs), "ours_is_faster_by": ratio,
                             "parameters": parameters[name], "difference": why})
    return rows


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="timed steps, after three of warm-up")
    parser.add_argument("--out", help="another file for the measurements")
    args = parser.parse_args()
    rows = peers(args.rounds)
    print(table(rows))
    record("peers", {"result": rows}, args.out)


if __name__ == "__main__":
    main()
