"""Exercises of lesson 12: the first stage that differs, learning rates by layer, renamed weights, hooks."""

from contextlib import suppress

import torch
from torch import nn

from ..model import EncoderBlock, VisionTransformer
from .base import difference, exercise


def largest(a, b):
    return (a - b).abs().max().item()


def first(ours, theirs, wrong):
    return next((stage for stage in ours if wrong(ours[stage], theirs[stage])), "none")


def some_stages():
    a, b = torch.randn(2, 3, 4), torch.randn(2, 5)
    one_number = a.clone()
    one_number[1, 2, 3] -= 0.1
    hidden = a.clone()
    hidden[0, 0, 0] = torch.nan
    ours = {"patch embedding": a, "block 0": a, "block 1": a, "norm": a, "logits": b}
    return [({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 1.0]), "c": torch.tensor([1.0])},
             {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([2.5, 1.5]), "c": torch.tensor([9.0])}, 1e-5),
            (ours, {**ours, "block 1": one_number, "norm": a + 1, "logits": b + 5}, 0.01),
            (ours, {**ours, "block 0": a + 1e-4, "logits": b + 1}, 0.001),
            (ours, {**ours, "norm": hidden, "logits": b * torch.nan}, 1e-3), (ours, dict(ours), 0.0),
            ({**ours, "norm": hidden}, ours, 1e-3),
            ({**ours, "norm": hidden}, {**ours, "norm": hidden}, 1e-3),
            # The sign, many small differences, and a large number.
            ({"a": torch.tensor([0.0, 0.0])}, {"a": torch.tensor([9.0, 0.0])}, 1e-3),
            ({"a": torch.zeros(100)}, {"a": torch.full((100,), 5e-4)}, 1e-3),
            ({"a": torch.tensor([1000.0])}, {"a": torch.tensor([1000.005])}, 1e-3)]


@exercise(
    cases=some_stages,
    mistakes={
        "this is the stage with the largest difference; the mistake is where the difference begins, and "
        "later stages inherit it.":
            lambda a, b, tolerance: max(a, key=lambda stage: largest(a[stage], b[stage]))
            if first(a, b, lambda x, y: largest(x, y) > tolerance) != "none" else "none",
        "the differences are not made positive: a number that is too small passes. Take .abs() "
        "before .max().":
            lambda a, b, tolerance: first(a, b, lambda x, y: not (x - y).max().item() <= tolerance),
        "the mean difference hides one wrong number among many right ones; take the largest.":
            lambda a, b, tolerance: first(a, b, lambda x, y: not (x - y).abs().mean().item() <= tolerance),
        "a stage with a nan passes, because `nan > tolerance` is False; ask `not difference <= tolerance`.":
            lambda a, b, tolerance: first(a, b, lambda x, y: largest(x, y) > tolerance),
        "a nan at the same place in both models passes as equal; ask `not difference <= tolerance`.":
            lambda a, b, tolerance: first(
                a, b, lambda x, y: not torch.allclose(x, y, atol=tolerance, rtol=0, equal_nan=True)),
        "a difference that equals the tolerance counts as one; only what exceeds it should.":
            lambda a, b, tolerance: first(a, b, lambda x, y: not largest(x, y) < tolerance),
        "the tolerance is not used: rounding makes even correct models differ.":
            lambda a, b, tolerance: first(a, b, lambda x, y: not largest(x, y) <= 0),
    })
def first_difference(ours, theirs, tolerance):
    return first(ours, theirs, lambda x, y: not largest(x, y) <= tolerance)


NAMES = ("patch_embed.proj.weight", "cls_token", "pos_embed", "blocks.0.attn.qkv.weight",
         "blocks.1.norm1.bias", "blocks.3.mlp.fc2.weight", "norm.weight", "head.bias")


def power(name, depth, of_block=lambda depth, i: depth - i, below=1, top=0,
          number=lambda name: int(name.split(".")[1])):
    if name.startswith("blocks."):
        return of_block(depth, number(name))
    return depth + below if name.startswith(("patch_embed", "cls_token", "pos_embed")) else top


def rate_by(**how):
    return lambda name, depth, rate, decay: rate * decay ** power(name, depth, **how)


@exercise(
    cases=lambda: [("blocks.1.attn.qkv.weight", 4, 1.0, 0.5), *((name, 4, 0.01, 0.75) for name in NAMES),
                   *((f"blocks.{i}.mlp.fc1.weight", 12, 0.002, 0.9) for i in range(12)),
                   ("pos_embed", 12, 0.002, 0.9)],
    mistakes={
        "the count starts at the wrong end: of all blocks, block 0 learns the slowest.":
            rate_by(of_block=lambda depth, i: i + 1),
        "the last block learns as fast as the head; there is one layer above it, so its power is 1.":
            rate_by(of_block=lambda depth, i: depth - 1 - i, below=0),
        "the head is a layer above the blocks, too: above block i are depth - i layers.":
            rate_by(of_block=lambda depth, i: depth - 1 - i),
        "patch embedding, CLS token and positions learn as fast as block 0; they lie one layer below it.":
            rate_by(below=0),
        "a block's norm1 is taken for the last norm; look at the first part of the name.":
            lambda name, depth, rate, decay:
                rate * decay ** (0 if "norm" in name or "head" in name else power(name, depth)),
        "CLS token and positions learn at the full rate; they lie as low as the patch embedding.":
            lambda name, depth, rate, decay:
                rate * decay ** (0 if name in ("cls_token", "pos_embed") else power(name, depth)),
        "only the first digit of the block's number is read, so block 11 counts as block 1; split the name "
        "at its dots.":
            rate_by(number=lambda name: int(name[7])),
        "everything outside the blocks learns at the full rate; patch embedding, CLS token and positions "
        "are the lowest layer of all.":
            lambda name, depth, rate, decay:
                rate * decay ** (power(name, depth) if name.startswith("blocks.") else 0),
    })
def rate_of(name, depth, rate, decay):
    return rate * decay ** power(name, depth)


PARTS = {"norm1": "layernorm_before", "attn.proj": "attention.output.dense", "norm2": "layernorm_after",
         "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}


def separate(embed_dim, mlp_dim):
    """A block's weights under Hugging Face's names, with Q, K and V apart."""
    block = EncoderBlock(embed_dim, 1, mlp_dim)
    ours = {name: torch.randn(value.shape) for name, value in block.state_dict().items()}
    theirs = {}
    for kind in ("weight", "bias"):
        for name, value in zip(("query", "key", "value"), ours[f"attn.qkv.{kind}"].chunk(3), strict=True):
            theirs[f"attention.attention.{name}.{kind}"] = value.clone()
        theirs |= {f"{part}.{kind}": ours[f"{own}.{kind}"] for own, part in PARTS.items()}
    return theirs


def packed(theirs, order=("query", "key", "value"), dim=0, parts=PARTS, turn=lambda weight: weight):
    ours = {}
    for kind in ("weight", "bias"):
        three = [turn(theirs[f"attention.attention.{name}.{kind}"]) for name in order]
        ours[f"attn.qkv.{kind}"] = torch.cat(three, dim=dim)
        ours |= {f"{own}.{kind}": theirs[f"{part}.{kind}"] for own, part in parts.items()}
    return ours


@exercise(
    cases=lambda: [(separate(2, 3),), (dict(reversed(separate(6, 12).items())),)],
    mistakes={
        "the three matrices are side by side; stack them vertically (dim=0), since a Linear's rows are its "
        "outputs.":
            lambda theirs: packed(theirs, dim=-1),
        "the order is alphabetical (key, query, value); qkv holds the query first.":
            lambda theirs: packed(theirs, order=("key", "query", "value")),
        "the matrices are transposed; both libraries store a Linear's weight as (outputs, inputs).":
            lambda theirs: packed(theirs, turn=lambda weight: weight.T if weight.ndim == 2 else weight),
        "the two norms are swapped: the one before attention is norm1. Their shapes are equal, so loading "
        "does not complain.":
            lambda theirs: packed(theirs, parts={**PARTS, "norm1": PARTS["norm2"], "norm2": PARTS["norm1"]}),
        "fc1 and fc2 are swapped: intermediate.dense comes first.":
            lambda theirs: packed(theirs, parts={**PARTS, "mlp.fc1": PARTS["mlp.fc2"],
                                                 "mlp.fc2": PARTS["mlp.fc1"]}),
        "the bias is packed in another order than the weight.":
            lambda theirs: {**packed(theirs), "attn.qkv.bias":
                            packed(theirs, order=("key", "query", "value"))["attn.qkv.bias"]},
        "only weights are renamed; the biases are part of the state dict too.":
            lambda theirs: {name: value for name, value in packed(theirs).items() if name.endswith("weight")},
    })
def pack_block(theirs):
    return packed(theirs)


# What may be wrong besides the outputs, as it is told.
LEFT = "of its hooks are still on the model, and will run and hold memory in every later call."
AFTER_AN_ERROR = "of its hooks are still on the model after a call in which the model raised an error."
AFTER_A_NAME = "of its hooks are still on the model after a call with a name that the model does not have."
SILENT = "errors, of the model and of a name, did not reach the caller."


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def collected(answer, model, names, images):
    """What the answer collected, and what else is wrong with it: hooks left behind, errors kept silent."""
    found, wrong = answer(model, names, images), {}
    left, silent = hooks_on(model), 0
    # A size that the model refuses, and a name that it has not.
    for what, call in ((AFTER_AN_ERROR, (names, images[..., 1:])),
                       (AFTER_A_NAME, ([*names, "nope"], images))):
        before = hooks_on(model)
        with suppress(Exception):
            answer(model, *call)
            silent += 1
        wrong[what] = hooks_on(model) - before
    wrong |= {LEFT: left, SILENT: silent}
    return {**found, **{what: n for what, n in wrong.items() if n}} if isinstance(found, dict) else found


def not_all(found, model, names, images):
    told = (LEFT, AFTER_AN_ERROR, AFTER_A_NAME, SILENT)
    problem = difference({name: value for name, value in found.items() if name not in told},
                         outputs(model, names, images), 1e-5)
    return problem or next((f"{found[what]} {what}" for what in told if what in found), None)


def outputs(model, names, images, keep=lambda module, inputs, output: output, leave=False, careful=True,
            early=False, silent=False):
    found, handles = {}, []

    def register():
        for name in names:
            def hook(module, inputs, output, name=name):
                found[name] = keep(module, inputs, output)
            handles.append(model.get_submodule(name).register_forward_hook(hook))

    if early:
        register()
    ran = False
    try:
        if not early:
            register()
        with torch.no_grad():
            model(images)
        ran = True
    except Exception:
        if not silent:
            raise
    finally:
        for handle in handles if not leave and (ran or careful) else ():
            handle.remove()
    return found


def late(model, names, images):
    found, handles = {}, []
    for name in names:
        hook = lambda module, inputs, output: found.__setitem__(name, output)            # noqa: B023, E731
        handles.append(model.get_submodule(name).register_forward_hook(hook))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def first_image(model, names, images):
    return {name: value[:1] for name, value in outputs(model, names, images).items()}


def small():
    model = VisionTransformer((4, 8), 4, num_classes=3, embed_dim=8, depth=2, num_heads=2, mlp_dim=8).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


@exercise(
    use=collected, judge=not_all,
    cases=lambda: [(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)).eval(), ["0", "2"],
                    torch.randn(1, 2)),
                   (small(), ["patch_embed", "blocks.0", "blocks.1.mlp", "norm", "head"],
                    torch.randn(2, 3, 4, 8))],
    mistakes={
        "all hooks write under the last name, since `name` is looked up when the hook runs, after the loop; "
        "bind it with a default, name=name, in the hook's parameters.": late,
        "the hook keeps what goes into the stage; its third argument is what comes out.":
            lambda *case: outputs(*case, keep=lambda module, inputs, output: inputs[0]),
        "the hooks stay on the model: keep the handle of each and call its remove() at the end.":
            lambda *case: outputs(*case, leave=True),
        "the hooks stay on the model when it raises an error: remove them in a `finally`, which runs then, "
        "too.":
            lambda *case: outputs(*case, careful=False),
        "hooks stay on the model when a later name does not exist: register them inside the `try`, too.":
            lambda *case: outputs(*case, early=True),
        "the error is caught and never seen again; use `finally`, not `except`.":
            lambda *case: outputs(*case, silent=True),
        "only the first image of the batch is kept; keep a stage's whole output.": first_image,
    })
def outputs_of(model, names, images):
    return outputs(model, names, images)
