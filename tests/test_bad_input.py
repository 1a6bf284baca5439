"""Bad input: every public function takes each argument spoiled, and gives the right result or says what is wrong with it.

A refusal is a ValueError or a TypeError whose message holds the value, or its shape, dtype or device. Anything else that is
raised (deep inside torch or NumPy) is a mistake, and so is a result of another shape or a number that hides a nan.
VIT_EXAMPLES=200 searches for longer than the few examples of each run; --hypothesis-seed=N elsewhere.
"""

import atexit
import dataclasses
import functools
import inspect
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import vit_helpers
from vit_helpers import (
    PLAIN,
    Evaluation,
    Tiles,
    VisionTransformer,
    attention,
    checkpoints,
    cnn,
    data,
    evaluation,
    heads,
    model,
    normalize,
    patches,
    pictures,
    plotting,
    pretrained,
    recipes,
    runtime,
    scenes,
    synthetic,
    training,
    widgets,
)

LONGER = int(os.environ.get("VIT_EXAMPLES", 0))
SEARCH = settings(deadline=None, database=None, derandomize=not LONGER, suppress_health_check=list(HealthCheck),
                  phases=[Phase.generate])           # each spoiled value is reported by itself: nothing to shrink
DRAWING = ("vit_helpers.plotting", "vit_helpers.widgets")            # which take a tenth of a second for each picture
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


# What can be wrong with an argument


@dataclasses.dataclass
class Spoiled:
    """A value in place of a clean one, what a refusal has to mention of it, and what it must lead to if it is taken.

    rule: "refused"; "like": the same result as `like`; "nan": a result that is not finite; "meta": a result on that device;
    "free": a result of the shape that goes with it; "any".
    """

    value: object
    rule: str = "refused"
    says: tuple = ()
    like: object = None


ODD = st.sampled_from([None, "text", "", [], (), {}, [4], (1, 2, 3), 2j, object, b"x", {"a": 1}, torch.nn.Identity])


def odd(value, *more):
    """A value of another kind: a refusal names it, its type, or a number in it."""
    inner = map(str, value) if isinstance(value, (tuple, list)) else ()
    return Spoiled(value, "refused", (repr(value)[:50], type(value).__name__, "()", "(0,)", *inner, *more))


def single(value, rule="refused", like=None):
    return Spoiled(value, rule, (repr(value), str(value), f"{value:,}" if isinstance(value, int) else str(value)), like)


class Count:
    """A whole number from `least` on."""

    def __init__(self, least=1, most=2**31):
        self.least, self.most = least, most

    def __call__(self, draw, clean):
        yield single(draw(st.integers(max_value=self.least - 1)))
        yield single(draw(st.integers(min_value=self.most + 1)))
        yield single(draw(st.floats().filter(lambda value: value != round(value) if abs(value) < 1e300 else True)))
        yield single(draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300])))
        yield single(float(clean), "like", clean)
        yield single(np.int64(clean), "like", clean)
        yield single(np.int32(clean), "like", clean)
        yield odd(draw(ODD))
        yield odd(str(clean))


class Number:
    """A number from `low` to `high`, the ends themselves allowed or not."""

    def __init__(self, low, high, ends=(True, True)):
        self.low, self.high, self.ends = low, high, ends

    def __call__(self, draw, clean):
        for end, allowed, step in ((self.low, self.ends[0], -1), (self.high, self.ends[1], 1)):
            if np.isfinite(end):
                yield single(end + step * draw(st.floats(0.001, 1e30)))
                if not allowed:
                    yield single(end)
        yield single(draw(st.sampled_from([float("nan"), float("inf"), -float("inf")])))
        yield single(np.float64(clean), "like", clean)
        yield single(np.float32(clean), "like", float(np.float32(clean)))
        yield odd(draw(ODD))
        yield odd(str(clean))


class Choice:
    """One of a few words."""

    def __call__(self, draw, clean):
        yield odd(draw(st.text(max_size=8).filter(lambda text: text not in
                                                  ("cls", "mean", "auto", "conv", "linear"))))
        yield odd(draw(ODD))


class Size:
    """One number of pixels or two."""

    def __call__(self, draw, clean):
        yield single(draw(st.integers(max_value=0)))
        yield single(draw(st.integers(min_value=2**31)))
        yield single(draw(st.sampled_from([float("nan"), 8.0, 2.5, float("inf")])))
        yield odd(draw(ODD.filter(lambda value: value != [4])))
        yield odd((clean, 0) if isinstance(clean, int) else (0, 8), "0")
        yield odd((draw(st.integers(max_value=0)), 8), "[0]")
        yield odd((8, 8, 8), "8")
        yield single(np.int64(clean) if isinstance(clean, int) else list(clean), "like", clean)


class Grid:
    """(rows, columns)."""

    def __call__(self, draw, clean):
        yield odd((draw(st.integers(max_value=0)), clean[1]), "[0]", "x")
        yield odd((clean[0], draw(st.integers(min_value=2**31))))
        yield odd((clean[0] + 0.5, clean[1]), str(clean[0] + 0.5))
        yield odd(draw(ODD))
        yield odd((*clean, 1))
        yield odd(clean[0])
        yield Spoiled(list(clean), "like", (), clean)
        yield Spoiled((np.int64(clean[0]), np.int64(clean[1])), "like", (), clean)
        if clean[0] != clean[1]:
            yield Spoiled((clean[0] + 1, clean[1]), "free", (str(clean[0] + 1), str((clean[0] + 1) * clean[1])))


class Seed:
    """A whole number; NumPy's generators take those from 0 to 2**32 - 1."""

    def __call__(self, draw, clean):
        yield Spoiled(draw(st.integers(max_value=-1)), "any", ("seed",))
        yield Spoiled(draw(st.integers(min_value=2**64)), "refused", ("seed",))
        yield single(draw(st.sampled_from([float("nan"), 1.5, float("inf")])))
        yield single(np.int64(clean), "like", clean)
        yield odd(draw(ODD.filter(lambda value: value is not None)))


class Tensor:
    """A tensor. axes: for each axis "=" where its length is bound by the other arguments, "." where it is free; a leading "*"
    for any more. family: "float", "whole", "any" or "pixels". low, high: of whole numbers. nan: what has to come of it; "any"
    where it may be left out, "gap" where it is drawn as an empty place.

    Lists and NumPy's arrays are the same as the tensor, or refused.
    """

    def __init__(self, axes, family="float", low=None, high=None, nan="nan"):
        self.axes, self.family, self.low, self.high, self.nan = axes, family, low, high, nan

    def fits(self, shape, clean):
        axes = self.axes
        if axes.startswith("*"):
            axes = axes[1:]
            if len(shape) < len(axes):
                return False
            shape = shape[len(shape) - len(axes):]
        wanted = clean.shape[clean.ndim - len(axes):]
        return len(shape) == len(axes) and all(a == "." or s == w for a, s, w in zip(axes, shape, wanted, strict=True))

    def shaped(self, shape, clean):
        value = torch.full(shape, self.low or 0, dtype=clean.dtype)
        changed = [s for s, c in zip(shape, clean.shape, strict=False) if s != c or len(shape) != clean.ndim]
        changed = [str(s - less) for s in changed for less in (0, 1, 2)] + [str(tuple(shape[1:]))]     # s classes: 0 to s - 1
        empty = ("no ", "empty", "0") if 0 in shape else ()
        return Spoiled(value, "free" if self.fits(shape, clean) else "refused",
                       (str(tuple(shape)), "x".join(map(str, shape[-2:])), *changed, *empty))

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: value not in ([], (), [4], (1, 2, 3)))))
        yield odd(3.5, "()")
        plain = clean.detach().float() if clean.dtype == torch.bfloat16 else clean.detach()
        yield Spoiled(plain.numpy(), "like", ("ndarray",), clean)
        yield Spoiled(plain.tolist(), "like", ("list", "[", "()", "torch.int64", "torch.float32"), clean)
        yield self.shaped(tuple(draw(st.lists(st.integers(0, 5), max_size=6))), clean)
        for axis in range(clean.ndim):
            shape = list(clean.shape)
            shape[axis] = draw(st.sampled_from([0, 1, 1, shape[axis] + 1, 2 * shape[axis], max(0, shape[axis] - 1)]))
            if shape != list(clean.shape):
                yield self.shaped(tuple(shape), clean)
        yield self.shaped((1, *clean.shape), clean)
        yield self.shaped(tuple(clean.shape[1:]), clean)
        yield self.shaped((), clean)
        # The pixels of an image mean something else as whole numbers (0..255) than as others (-1..1).
        others = [*(FLOATS if clean.is_floating_point() else WHOLE), torch.complex64] if self.family == "pixels" else (
            [*FLOATS, *WHOLE, torch.bool, torch.complex64])
        for dtype in draw(st.permutations(others))[:3]:
            if dtype != clean.dtype:
                complex_ = dtype.is_complex and self.family != "any"
                value, says = clean.detach().to(dtype), (str(dtype), "holds -", "with left < right")
                kind = dtype if dtype.is_complex else torch.float64 if self.family == "any" else clean.dtype
                yield Spoiled(value, "refused" if complex_ else "like", says, value.to(kind))
        yield Spoiled(clean.detach().to("meta"), "meta", ("meta",))
        yield Spoiled(torch.stack([clean.detach()] * 2, dim=-1)[..., 0], "like", (), clean)
        if clean.is_floating_point():
            yield Spoiled(clean.detach().clone().requires_grad_(), "like", (), clean)
        if clean.is_floating_point() and clean.numel():
            for value, rule in ((float("nan"), self.nan), (float("inf"), "any"), (-float("inf"), "any"), (1e38, "any")):
                spoiled = clean.detach().clone()
                spoiled.view(-1)[draw(st.integers(0, clean.numel() - 1))] = value
                yield Spoiled(spoiled, rule, (str(value), "nan", "inf", "1e+38", "9.9", "1.0"))
        if self.low is not None and clean.numel():
            for value in (draw(st.integers(-(2**62), self.low - 1)), draw(st.integers(self.high + 1, 2**62))):
                spoiled = clean.detach().long().clone()
                spoiled.view(-1)[draw(st.integers(0, clean.numel() - 1))] = value
                rounded = str(int(float(value)))             # where labels go through float64, as those of pictures do
                yield Spoiled(spoiled, "refused", (str(value), rounded, "torch.int64"))


class Module:
    """A model; what=VisionTransformer where no other will do."""

    def __init__(self, what=None):
        self.what = what

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: value is not torch.nn.Identity)))
        yield Spoiled(torch.nn.Identity, "refused", ("Identity",))
        yield Spoiled(torch.nn.Identity(), "refused", ("Identity",))
        yield Spoiled(type(clean), "refused", (type(clean).__name__,))
        yield Spoiled(clean.to("meta"), "meta", ("meta",))
        if self.what:
            yield Spoiled(torch.nn.Linear(4, 4), "refused", ("Linear",))


class Labelled:
    """Tiles."""

    def __call__(self, draw, clean):
        yield odd(draw(ODD))
        yield Spoiled(clean.images, "refused", ("Tensor",))
        yield Spoiled((clean.images, clean.labels), "refused", ("tuple",))
        yield Spoiled(clean.select([]), "any", ("no tiles", "empty", "0 "))


class Random:
    """A torch.Generator, or None."""

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: value is not None)))
        yield odd(0)
        yield odd(np.random.default_rng(0), "Generator")


class Names:
    """A list of texts: as many as something else, or any number."""

    def __init__(self, bound=True, ints=False):
        self.bound, self.ints = bound, ints

    def __call__(self, draw, clean):
        if self.bound:
            yield Spoiled([*clean, "one more"], "refused", (str(len(clean) + 1), "one more"))
            yield Spoiled(list(clean)[:-1], "refused", (str(len(clean) - 1), "no "))
        yield Spoiled([*range(len(clean))], "any" if self.ints else "refused", ("int", "[0", "0"))
        yield Spoiled(np.array(list(clean)), "like", ("ndarray",), clean)
        yield Spoiled(tuple(clean), "like", (), clean)
        numbers = ([4], (1, 2, 3)) if self.ints else ()      # which are names too, where there are as many
        yield odd(draw(ODD.filter(lambda value: value not in (None, [], (), {}, {"a": 1}, *numbers))))


class Text:
    """A text."""

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: not isinstance(value, str))))


class Many:
    """A list with one `kind` of value in each place."""

    def __init__(self, *kinds, bound=True):
        self.kinds, self.bound = kinds, bound

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: value not in ([], (), {}, [4], (1, 2, 3)))))
        if self.bound:
            yield Spoiled([*clean, clean[0]], "refused", (str(len(clean) + 1),))
            yield Spoiled(list(clean)[:-1], "refused", (str(len(clean) - 1), "no "))
        at = draw(st.integers(0, len(clean) - 1))
        if len(self.kinds) == 1:
            for spoiled in self.kinds[0](draw, clean[at]):
                yield inside(clean, at, spoiled, spoiled.value, spoiled.like)
            return
        yield inside(clean, at, odd(3), 3, None)
        yield inside(clean, at, Spoiled(0, "refused", (str(len(clean[at]) - 1),)), clean[at][:-1], None)
        for k, kind in enumerate(self.kinds):
            for spoiled in kind(draw, clean[at][k]):
                whole = [tuple(value if j == k else each for j, each in enumerate(clean[at]))
                         for value in (spoiled.value, spoiled.like)]
                yield inside(clean, at, spoiled, *whole)


def inside(clean, at, spoiled, value, like):
    """The list `clean` with a spoiled value at one place."""
    spoil, same = ([new if i == at else each for i, each in enumerate(clean)] for new in (value, like))
    return dataclasses.replace(spoiled, value=spoil, like=same, rule="any" if spoiled.rule == "free" else spoiled.rule)


class Mapped:
    """A dict {name: value}, each of one `kind`."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: value not in ({}, {"a": 1}))))
        yield Spoiled({}, "any", ("no ", "empty", "{}"))
        at = draw(st.sampled_from(list(clean)))
        for spoiled in self.kind(draw, clean[at]):
            rule = "any" if spoiled.rule == "free" else spoiled.rule
            yield dataclasses.replace(spoiled, value={**clean, at: spoiled.value}, like={**clean, at: spoiled.like}, rule=rule)


class Values:
    """A list of numbers; `bound` where there must be as many as of something else. nan may be drawn as a gap."""

    def __init__(self, bound=True, nan="gap"):
        self.bound, self.nan = bound, nan

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: value not in ([], (), [4], (1, 2, 3)))))
        yield odd(3.5, "()")
        if self.bound:
            yield Spoiled([*clean, 1], "refused", (str(len(clean) + 1),))
            yield Spoiled(list(clean)[:-1], "refused", (str(len(clean) - 1),))
        yield Spoiled(["a"] * len(clean), "refused", ("'a'", "str"))
        yield Spoiled([None] * len(clean), "refused", ("None",))
        yield Spoiled([[1, 2]] * len(clean), "refused", ("[1, 2]", "2)"))
        yield Spoiled(torch.tensor(clean), "like", (), clean)
        yield Spoiled(np.array(clean), "like", (), clean)
        yield Spoiled([float("nan")] * len(clean), self.nan, ("nan",))
        yield Spoiled([float("inf")] * len(clean), "any", ("inf",))


class Flags:
    """A list of true and false, as many as something else."""

    def __call__(self, draw, clean):
        yield odd(3.5)
        yield odd(draw(st.sampled_from(["text", {"a": 1}, object, 2j])), "1")
        yield Spoiled([*clean, True], "refused", (str(len(clean) + 1),))
        yield Spoiled(torch.tensor(clean), "like", (), clean)


class Function:
    """Something to call."""

    def __call__(self, draw, clean):
        yield odd(draw(ODD.filter(lambda value: not callable(value) and value is not None)))
        yield odd(3)


class Maybe:
    """What another kind is, or None, or what else is `fine`."""

    def __init__(self, kind, fine=lambda value: False):
        self.kind, self.fine = kind, fine

    def __call__(self, draw, clean):
        return (spoiled for spoiled in self.kind(draw, clean) if spoiled.value is not None and not self.fine(spoiled.value))


class Thing:
    """An object of a class of its own, such as a Recipe."""

    def __call__(self, draw, clean):
        yield odd(draw(ODD))
        yield odd(3.5)


def free(reason):
    """An argument that is not spoiled, and why."""
    assert reason
    return lambda draw, clean: ()


TEXT = free("any text is a text, and other values are drawn as Python writes them")
FLAG = free("whatever Python takes for true or false")


# What must come of it


def leaves(result):
    """A result as a flat list of tensors and texts."""
    if isinstance(result, Figure):
        arrays = [torch.tensor(np.ma.filled(np.asarray(image.get_array(), dtype=float), np.nan))
                  for axis in result.axes for image in axis.images]
        return [result.alt, *arrays]
    if isinstance(result, widgets.Box):
        return [result.picture.value]
    if torch.is_tensor(result):
        return [result.detach()]
    if isinstance(result, np.ndarray):
        return [torch.from_numpy(result.copy())]
    if isinstance(result, (bool, int, float, np.number)):
        return [torch.tensor(float(result))]
    if isinstance(result, torch.nn.Module):
        return [v for value in result.state_dict().values() for v in leaves(value)]
    if isinstance(result, Tiles):
        return [result.images, result.labels, str(result.classes)]
    if dataclasses.is_dataclass(result):
        return leaves([getattr(result, field.name) for field in dataclasses.fields(result) if field.name != "seconds"])
    if isinstance(result, dict):
        return [v for value in result.values() for v in leaves(value)]
    if isinstance(result, (list, tuple)):
        return [v for value in result for v in leaves(value)]
    if inspect.isgenerator(result):
        return leaves(list(result))
    if isinstance(result, torch.optim.Optimizer):
        return [str(result)]
    if isinstance(result, torch.optim.lr_scheduler.LRScheduler):
        return leaves(result.get_last_lr())
    return [str(result)]


def same(found, wanted, rough):
    """Raise Wrong unless these leaves are equal, to a tenth where they are `rough`."""
    if len(found) != len(wanted):
        raise Wrong(f"{len(found)} values instead of {len(wanted)}")
    for a, b in zip(found, wanted, strict=True):
        if not torch.is_tensor(b):
            if a != b and not rough:
                raise Wrong(f"{a!r} instead of {b!r}")
        elif a.shape != b.shape:
            raise Wrong(f"{tuple(a.shape)} instead of {tuple(b.shape)}")
        else:
            if a.is_complex() or b.is_complex():
                a, b = torch.view_as_real(a.to(torch.complex128)), torch.view_as_real(b.to(torch.complex128))
            gap = dict(rtol=0.1, atol=0.1) if rough else dict(rtol=1e-3, atol=1e-4)
            if not torch.allclose(a.double(), b.double(), equal_nan=True, **gap):
                raise Wrong(f"{a} instead of {b}")


class Wrong(Exception):
    """What a spoiled argument led to, in one line."""


def refused_rightly(problem, spoiled):
    message = str(problem)
    for text in spoiled.says:
        if text.lstrip("-").isdigit():               # a number stands by itself
            if re.search(rf"(?<![\w.]){re.escape(text)}(?!\w)", message.replace(",", "")):
                return
        elif text and text in message:
            return
    raise Wrong(f"{type(problem).__name__} {message!r} does not name the value, by none of {spoiled.says}")


def run(call, given):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = call.function(**given)
    if isinstance(result, widgets.Box) and 'role="alert"' in result.picture.value:
        raise ValueError(result.picture.value)       # a control says why in the place of its picture
    return list(result) if inspect.isgenerator(result) else result


@functools.cache
def clean_result(name):
    return leaves(run(CALLS[name], CALLS[name].arguments()))


def check(title, name, spoiled, clean):
    """Run a call with one spoiled argument in place of the clean one, and look at what comes of it."""
    call = CALLS[title]
    given = {**call.arguments(), name: spoiled.value}
    try:
        result = run(call, given)
    except (ValueError, TypeError) as problem:
        refused_rightly(problem, spoiled)
        return
    if spoiled.rule == "refused":
        raise Wrong(f"it was taken and gave {describe(result)}")
    if spoiled.rule == "like":
        half = any(str(dtype) in spoiled.says for dtype in (torch.float16, torch.bfloat16))
        wanted = clean_result(title) if spoiled.like is clean else leaves(run(call, {**call.arguments(), name: spoiled.like}))
        same(leaves(result), wanted, half)
    elif spoiled.rule == "nan":
        numbers = [leaf for leaf in leaves(result) if torch.is_tensor(leaf)]
        if all(leaf.isfinite().all() for leaf in numbers):
            raise Wrong(f"the nan is hidden in {describe(result)}")
    elif spoiled.rule == "meta":
        for leaf, one in zip(leaves(result)[:1], clean_result(title)[:1], strict=True):
            if not torch.is_tensor(leaf) or not leaf.is_meta or leaf.shape != one.shape:
                raise Wrong(f"{describe(leaf)} instead of {describe(one)} on meta")
    elif spoiled.rule == "free" and call.shape:
        wanted = tuple(call.shape(**given))
        if tuple(leaves(result)[0].shape) != wanted:
            raise Wrong(f"{tuple(leaves(result)[0].shape)} instead of {wanted}")


def describe(value):
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "dtype") else " ".join(repr(value).split())[:100]


@dataclasses.dataclass
class Call:
    """A function, a valid call of it (made anew each time), what each argument is, and the shape of its first result."""

    function: object
    arguments: object
    kinds: dict
    shape: object = None


# The table: a valid call of each public function, and what its arguments are


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2


def pixels(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def vit(**options):
    torch.manual_seed(0)
    sizes = dict(img_size=(8, 12), patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=2, mlp_dim=8, dropout=0.0)
    built = VisionTransformer(**{**sizes, "pool": "mean", "positions": "sincos", **options})
    torch.nn.init.normal_(built.head.weight)
    return built.eval()


def painter():
    built = heads.DiffusionTransformer(vit())
    for weights in built.paint.parameters():
        torch.nn.init.normal_(weights)
    return built


@functools.cache
def picture_folder():
    folder = picture_file().parent / "pictures"
    for i in range(6):
        (folder / NAMES[i % 3]).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture_file(), folder / NAMES[i % 3] / f"{i}.png")
    return folder


@functools.cache
def stored():
    return vit_helpers.pack(picture_folder(), picture_file().parent / "stored", size=8)


@functools.cache
def prediction():
    return pictures.predict(pixels(3, 64, 64), "synthetic")


def regions(n):
    return torch.arange(64 * n).reshape(n, 8, 8) % 3


def few_tiles(n=6, height=8, width=12):
    return Tiles(pixels(n, 3, height, width), torch.arange(n) % 3, ("Forest", "River", "SeaLake"))


def seeded():
    return torch.Generator().manual_seed(0)


def boxes(n):
    return torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.25, 1.0, 0.75], [0.1, 0.6, 0.4, 0.9]])[:n]


def evaluated():
    return Evaluation(drawn(6, 3), torch.arange(6) % 3, ("Forest", "River", "SeaLake"))


def maps(B=2, N=6):
    return drawn(B, 2, 2, N, N).softmax(dim=-1)


@functools.cache
def picture_file():
    from PIL import Image
    folder = Path(tempfile.mkdtemp(prefix="vit-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "picture.png"
    Image.fromarray(pixels(20, 30, 3).numpy()).save(path)
    return path


IMAGES = Tensor(".===")                       # the model's own channels and size
DEVICE = Maybe(Choice())
LAYER = {"embed_dim": Count(), "num_heads": Count(), "mlp_dim": Count(), "dropout": Number(0, 1)}
CALLS = {
    # vit_helpers.patches
    "patch_grid": Call(patches.patch_grid, lambda: dict(img_size=8, patch_size=4), dict(img_size=Size(), patch_size=Size())),
    "patchify": Call(patches.patchify, lambda: dict(images=drawn(2, 3, 8, 12), patch_size=4),
                     dict(images=Tensor("....", "any"), patch_size=Size()),
                     lambda images, patch_size: (len(images), images.shape[2] * images.shape[3] // 16, images.shape[1] * 16)),
    "unpatchify": Call(patches.unpatchify, lambda: dict(patches=drawn(2, 6, 48), patch_size=4, grid=(2, 3)),
                       dict(patches=Tensor(".=.", "any"), patch_size=Size(), grid=Grid()),
                       lambda patches, patch_size, grid: (len(patches), patches.shape[2] // 16, 4 * grid[0], 4 * grid[1])),
    "pair": Call(patches.pair, lambda: dict(size=8), dict(size=Size())),
    # vit_helpers.model
    "sincos_positions": Call(model.sincos_positions, lambda: dict(grid=(2, 3), embed_dim=16, temperature=10000.0),
                             dict(grid=Grid(), embed_dim=Count(), temperature=Number(0, np.inf, (False, True))),
                             lambda grid, embed_dim, temperature: (grid[0] * grid[1], embed_dim)),
    "interpolate_positions": Call(
        model.interpolate_positions, lambda: dict(positions=drawn(1, 7, 16), old_grid=(2, 3), new_grid=(4, 6)),
        dict(positions=Tensor("=.."), old_grid=Grid(), new_grid=Grid()),
        lambda positions, old_grid, new_grid: (1, positions.shape[1] - 6 + new_grid[0] * new_grid[1], positions.shape[2])),
    "keep_some": Call(model.keep_some, lambda: dict(tokens=drawn(2, 7, 16), share=0.5, prefix=1),
                      dict(tokens=Tensor("...", "any", nan="any"), share=Number(0, 1), prefix=Count(0)),
                      lambda tokens, share, prefix: (len(tokens), prefix + max(1, round((tokens.shape[1] - prefix) * share)),
                                                     tokens.shape[2])),
    "keep_some, chosen": Call(model.keep_some, lambda: dict(tokens=drawn(2, 7, 16), share=torch.tensor([[0, 3], [1, 5]]),
                                                            prefix=1),
                              dict(tokens=Tensor("=..", "any", nan="any"), share=Tensor("=.", "whole", 0, 5), prefix=Count(0)),
                              lambda tokens, share, prefix: (2, prefix + share.shape[1], tokens.shape[2])),
    "PatchEmbedding": Call(model.PatchEmbedding, lambda: dict(patch_size=4, in_channels=3, embed_dim=16, stem="conv"),
                           dict(patch_size=Size(), in_channels=Count(), embed_dim=Count(), stem=Choice())),
    "PatchEmbedding.forward": Call(lambda images: model.PatchEmbedding(4, 3, 16)(images), lambda: dict(images=drawn(2, 3, 8,
                                                                                                                    12)),
                                   dict(images=Tensor(".=..")),
                                   lambda images: (len(images), (images.shape[2] // 4) * (images.shape[3] // 4), 16)),
    "MultiHeadSelfAttention": Call(model.MultiHeadSelfAttention, lambda: dict(embed_dim=16, num_heads=2, dropout=0.0),
                                   {name: LAYER[name] for name in ("embed_dim", "num_heads", "dropout")}),
    "MultiHeadSelfAttention.forward": Call(lambda x, return_weights: model.MultiHeadSelfAttention(16, 2)(x, return_weights),
                                           lambda: dict(x=drawn(2, 6, 16), return_weights=False),
                                           dict(x=Tensor("..="), return_weights=FLAG), lambda x, return_weights: x.shape),
    "MLP": Call(model.MLP, lambda: dict(embed_dim=16, mlp_dim=8, dropout=0.0),
                {name: LAYER[name] for name in ("embed_dim", "mlp_dim", "dropout")}),
    "MLP.forward": Call(lambda x: model.MLP(16, 8)(x), lambda: dict(x=drawn(2, 6, 16)), dict(x=Tensor("*=")),
                        lambda x: x.shape),
    "EncoderBlock": Call(model.EncoderBlock, lambda: dict(embed_dim=16, num_heads=2, mlp_dim=8, dropout=0.0), LAYER),
    "EncoderBlock.forward": Call(lambda x, return_weights: model.EncoderBlock(16, 2, 8)(x, return_weights),
                                 lambda: dict(x=drawn(2, 6, 16), return_weights=False),
                                 dict(x=Tensor("..="), return_weights=FLAG), lambda x, return_weights: x.shape),
    "VisionTransformer": Call(
        VisionTransformer, lambda: dict(img_size=8, patch_size=4, in_channels=3, num_classes=3, embed_dim=16, depth=1,
                                        num_heads=2, mlp_dim=8, dropout=0.0, stem="linear", positions="sincos", pool="mean"),
        dict(img_size=Size(), patch_size=Size(), in_channels=Count(), num_classes=Count(), depth=Count(0), **LAYER,
             stem=Choice(), positions=Choice(), pool=Choice())),
    "VisionTransformer.forward": Call(lambda images, keep_tokens: vit()(images, keep_tokens=keep_tokens),
                                      lambda: dict(images=drawn(2, 3, 8, 12), keep_tokens=1.0),
                                      dict(images=IMAGES, keep_tokens=Number(0, 1)), lambda images, keep_tokens: (len(images),
                                                                                                                  3)),
    "VisionTransformer.forward, chosen": Call(
        lambda images, keep_tokens: vit(pool="cls")(images, keep_tokens=keep_tokens),
        lambda: dict(images=drawn(2, 3, 8, 12), keep_tokens=torch.tensor([[0, 3], [1, 5]])),
        dict(images=Tensor("====", nan="any"), keep_tokens=Tensor("=.", "whole", 0, 5)), lambda images, keep_tokens: (2, 3)),
    "VisionTransformer.forward_features": Call(
        lambda images, return_weights: vit().forward_features(images, return_weights),
        lambda: dict(images=drawn(2, 3, 8, 12), return_weights=True), dict(images=IMAGES, return_weights=FLAG),
        lambda images, return_weights: (len(images), 6, 16)),
    "VisionTransformer.embed": Call(lambda images: vit().embed(images), lambda: dict(images=drawn(2, 3, 8, 12)),
                                    dict(images=IMAGES), lambda images: (len(images), 6, 16)),
    "VisionTransformer.pooled": Call(lambda tokens: vit().pooled(tokens), lambda: dict(tokens=drawn(2, 6, 16)),
                                     dict(tokens=Tensor("..=")), lambda tokens: (len(tokens), 16)),
    "VisionTransformer.forward_head": Call(lambda tokens: vit(pool="cls").forward_head(tokens),
                                           lambda: dict(tokens=drawn(2, 7, 16)), dict(tokens=Tensor("..=", nan="any")),
                                           lambda tokens: (len(tokens), 3)),
    "VisionTransformer.set_img_size": Call(lambda img_size: vit(positions="learned").set_img_size(img_size),
                                           lambda: dict(img_size=16), dict(img_size=Size())),
    # vit_helpers.data
    "normalize": Call(normalize, lambda: dict(images=pixels(2, 3, 4, 6)), dict(images=Tensor("*", "whole")),
                      lambda images: images.shape),
    "Tiles": Call(Tiles, lambda: dict(images=pixels(6, 3, 8, 8), labels=torch.arange(6) % 3, classes=("a", "b", "c"),
                                      source="own"),
                  dict(images=Tensor("=...", "whole"), labels=Tensor("=", "whole", 0, 2), classes=Names(bound=False),
                       source=TEXT)),
    "Tiles.select": Call(lambda index: few_tiles().select(index), lambda: dict(index=torch.tensor([0, 4, 4])),
                         dict(index=Tensor(".", "whole", 0, 5))),
    "Tiles.resized": Call(lambda size: few_tiles().resized(size), lambda: dict(size=16), dict(size=Size())),
    "Tiles.to": Call(lambda device: few_tiles().to(device), lambda: dict(device="cpu"), dict(device=DEVICE)),
    "Tiles.split": Call(lambda test_fraction, seed: few_tiles(12).split(test_fraction, seed),
                        lambda: dict(test_fraction=0.25, seed=0), dict(test_fraction=Number(0, 1, (False, False)),
                                                                       seed=Seed())),
    "Tiles.subset": Call(lambda n, seed: few_tiles().subset(n, seed), lambda: dict(n=3, seed=0), dict(n=Count(3, 6),
                                                                                                      seed=Seed())),
    "pack": Call(lambda **given: vit_helpers.pack(picture_folder(), Path(tempfile.mkdtemp(dir=picture_folder().parent), "new"),
                                                  **given).labels,
                 lambda: dict(size=8, large="resize", seed=0, workers=0),
                 dict(size=Count(), large=Choice(), seed=Seed(), workers=Count(0))),
    "StoredTiles.select": Call(lambda index: stored().select(index).labels, lambda: dict(index=torch.tensor([0, 4, 4])),
                               dict(index=Tensor(".", "whole", 0, 5))),
    "view_of": Call(data.view_of, lambda: dict(images=pixels(2, 3, 4, 4), number=5),
                    dict(images=Tensor("*..", "any"), number=Count(0, 7))),
    "eight_views": Call(vit_helpers.eight_views, lambda: dict(images=pixels(2, 3, 4, 4)), dict(images=Tensor("*..", "any"))),
    "flip_and_transpose": Call(vit_helpers.flip_and_transpose, lambda: dict(images=pixels(4, 3, 4, 4), generator=seeded()),
                               dict(images=Tensor("....", "any"), generator=Random()), lambda images, generator: images.shape),
    "cutmix": Call(vit_helpers.cutmix, lambda: dict(images=drawn(4, 3, 8, 8), generator=seeded()),
                   dict(images=Tensor("....", "any"), generator=Random()), lambda images, generator: images.shape),
    "batches": Call(lambda **given: list(vit_helpers.batches(**given)),
                    lambda: dict(tiles=few_tiles(), batch_size=4, shuffle=True, augment=True, generator=seeded()),
                    dict(tiles=Labelled(), batch_size=Count(), shuffle=FLAG, augment=FLAG, generator=Random())),
    "load_tiles": Call(vit_helpers.load_tiles, lambda: dict(source="synthetic", root=None, download=False),
                       dict(source=Choice(), root=free("a folder of the user's: tests/test_data.py"), download=FLAG)),
    # vit_helpers.synthetic
    "synthetic_tiles": Call(synthetic.synthetic_tiles, lambda: dict(n=10, seed=0), dict(n=Count(10), seed=Seed())),
    # vit_helpers.attention
    "attention_maps": Call(attention.attention_maps, lambda: dict(model=vit(), images=drawn(2, 3, 8, 12), reduce=None),
                           dict(model=Module(VisionTransformer), images=IMAGES, reduce=Function()),
                           lambda model, images, reduce: (len(images), 2, 2, 6, 6)),
    "attention_rollout": Call(attention.attention_rollout, lambda: dict(maps=maps()), dict(maps=Tensor("...==")),
                              lambda maps: (len(maps), 6, 6)),
    "gradient_rollout": Call(attention.gradient_rollout,
                             lambda: dict(model=vit(), images=drawn(2, 3, 8, 12), targets=torch.tensor([0, 2])),
                             dict(model=Module(VisionTransformer), images=Tensor("===="),
                                  targets=Maybe(Tensor("=", "whole", 0, 2)))),
    "on_patches": Call(lambda rollout: attention.on_patches(rollout, vit(pool="cls")), lambda: dict(rollout=drawn(2, 7, 7)),
                       dict(rollout=Tensor(".==", nan="any")), lambda rollout: (len(rollout), 2, 3)),
    "on_patches, model": Call(attention.on_patches, lambda: dict(rollout=drawn(2, 6, 6), model=vit()),
                              dict(rollout=Tensor(".=="), model=Module(VisionTransformer))),
    "attention_distance": Call(attention.attention_distance, lambda: dict(maps=maps(), grid=(2, 3)),
                               dict(maps=Tensor("...=="), grid=Grid()), lambda maps, grid: maps.shape[:3]),
    "patch_evidence": Call(attention.patch_evidence, lambda: dict(model=vit(), images=drawn(2, 3, 8, 12)),
                           dict(model=Module(VisionTransformer), images=IMAGES), lambda model, images: (len(images), 6, 3)),
    "deletion_and_insertion": Call(
        attention.deletion_and_insertion,
        lambda: dict(model=vit(), images=drawn(2, 3, 8, 12), relevance=drawn(2, 2, 3), targets=torch.tensor([0, 2]), points=3),
        dict(model=Module(VisionTransformer), images=Tensor("===="), relevance=Tensor("==="),
             targets=Maybe(Tensor("=", "whole", 0, 2)), points=Count(1))),
    "area": Call(attention.area, lambda: dict(shown=torch.tensor([1, 3, 6]), curve=drawn(2, 3)),
                 dict(shown=Tensor("=", "whole"), curve=Tensor(".=")), lambda shown, curve: (len(curve),)),
    # vit_helpers.evaluation
    "Evaluation": Call(lambda **given: [(e := Evaluation(**given)).accuracy, e.loss, e.confusion, e.per_class, e.probabilities,
                                        str(e)],
                       lambda: dict(logits=drawn(6, 3), labels=torch.arange(6) % 3, classes=("a", "b", "c")),
                       dict(logits=Tensor("=="), labels=Tensor("=", "whole", 0, 2), classes=Names())),
    "Evaluation.calibration": Call(lambda bins: evaluated().calibration(bins), lambda: dict(bins=5), dict(bins=Count())),
    "Evaluation.calibration_error": Call(lambda bins: evaluated().calibration_error(bins), lambda: dict(bins=5),
                                         dict(bins=Count())),
    "Evaluation.at_temperature": Call(lambda temperature: evaluated().at_temperature(temperature),
                                      lambda: dict(temperature=2.0),
                                      dict(temperature=Number(0, np.inf, (False, False)))),
    "evaluate": Call(evaluation.evaluate, lambda: dict(model=vit(), tiles=few_tiles(), batch_size=4, views=1),
                     dict(model=Module(), tiles=Labelled(), batch_size=Count(), views=Count(1, 8))),
    "confusion_counts": Call(evaluation.confusion_counts, lambda: dict(labels=torch.arange(6) % 3,
                                                                       predictions=torch.arange(6) // 2, num_classes=3),
                             dict(labels=Tensor("=", "whole", 0, 2), predictions=Tensor("=", "whole", 0, 2),
                                  num_classes=Count())),
    "pooled_features": Call(evaluation.pooled_features, lambda: dict(model=vit(), tiles=few_tiles(), batch_size=4),
                            dict(model=Module(VisionTransformer), tiles=Labelled(), batch_size=Count())),
    "class_means": Call(evaluation.class_means, lambda: dict(features=drawn(6, 4), labels=torch.arange(6) % 3, num_classes=3),
                        dict(features=Tensor("=."), labels=Tensor("=", "whole", 0, 2), num_classes=Count(3)),
                        lambda features, labels, num_classes: (num_classes, features.shape[1])),
    "familiarity": Call(evaluation.familiarity, lambda: dict(features=drawn(6, 4), means=drawn(3, 4)),
                        dict(features=Tensor(".="), means=Tensor(".=")), lambda features, means: (len(features),)),
    # vit_helpers.pretrained, pictures
    "load_pretrained": Call(pretrained.load_pretrained, lambda: dict(name="synthetic"), dict(name=Choice())),
    "pretrained_facts": Call(pretrained.pretrained_facts, lambda: dict(name="synthetic"), dict(name=Choice())),
    "measured": Call(pretrained.measured, lambda: dict(name="race"), dict(name=Choice())),
    "from_torchvision": Call(pretrained.from_torchvision, lambda: dict(state_dict={"class_token": drawn(1, 1, 4)}),
                             dict(state_dict=Maybe(Thing(), lambda value: isinstance(value, dict)))),
    "stage_differences": Call(
        pretrained.stage_differences,
        lambda: dict(model=vit(), reference=vit(positions="none"), images=drawn(2, 3, 8, 12), gradients=False),
        dict(model=Module(VisionTransformer), reference=Module(VisionTransformer), images=IMAGES, gradients=FLAG)),
    "load_picture": Call(pictures.load_picture, lambda: dict(path=picture_file(), size=8),
                         dict(path=free("files of all kinds: tests/test_pictures.py"), size=Count())),
    "predict": Call(pictures.predict, lambda: dict(picture=pixels(3, 64, 64), name="synthetic"),
                    dict(picture=Maybe(Tensor("===", "whole"), lambda value: isinstance(value, str)), name=Choice())),
    "land_use_map": Call(pictures.land_use_map, lambda: dict(model=vit(), picture=pixels(3, 12, 20), stride=4, batch_size=4),
                         dict(model=Module(), picture=Tensor("=..", "whole"), stride=Count(1, 8), batch_size=Count()),
                         lambda model, picture, stride, batch_size: (3, *picture.shape[1:])),
    # vit_helpers.recipes, cnn, runtime, training
    "Recipe": Call(
        recipes.Recipe, lambda: dict(learning_rate=1e-3, weight_decay=0.0, muon_learning_rate=0.01, muon_weight_decay=0.1,
                                     batch_size=8, warmup=0.1, label_smoothing=0.1, cutmix=0.5, keep_tokens=0.5,
                                     keep_until=0.5, layer_decay=0.75),
        dict(learning_rate=Number(0, np.inf), weight_decay=Number(0, np.inf), muon_learning_rate=Number(0, np.inf),
             muon_weight_decay=Number(0, np.inf), batch_size=Count(), warmup=Number(0, 1), label_smoothing=Number(0, 1),
             cutmix=Number(0, 1), keep_tokens=Number(-np.inf, np.inf), keep_until=Number(0, 1), layer_decay=Number(0, 1))),
    "SmallCNN": Call(cnn.SmallCNN, lambda: dict(num_classes=3, widths=(8, 8)),
                     dict(num_classes=Count(), widths=Many(Count(), bound=False))),
    "make_optimizers": Call(recipes.make_optimizers, lambda: dict(model=vit(), recipe=PLAIN),
                            dict(model=Module(), recipe=Thing())),
    "make_schedules": Call(recipes.make_schedules,
                           lambda: dict(optimizers=recipes.make_optimizers(vit(), PLAIN), recipe=PLAIN, steps=10),
                           dict(optimizers=Maybe(Thing(), lambda value: value in ([], ())), recipe=Thing(),
                                steps=Count(1, 10**12))),
    "learning_rate_factor": Call(recipes.learning_rate_factor, lambda: dict(recipe=vit_helpers.GOOD, step=3, steps=10),
                                 dict(recipe=Thing(), step=Count(0), steps=Count(1, 10**12))),
    "pick_device": Call(runtime.pick_device, lambda: dict(device="cpu"), dict(device=DEVICE)),
    "has_fast_bf16": Call(runtime.has_fast_bf16, lambda: dict(device="cpu"), dict(device=DEVICE)),
    "fit": Call(training.fit, lambda: dict(model=vit(), train=few_tiles(), test=few_tiles(3), epochs=1, recipe=PLAIN, seed=0,
                                           device="cpu", checkpoint=None, resume=False),
                dict(model=Module(), train=Labelled(), test=Maybe(Labelled()), epochs=Number(0, np.inf, (False, True)),
                     recipe=Thing(),
                     seed=Seed(), device=DEVICE, checkpoint=free("a file: tests/test_training.py"), resume=FLAG)),
    "learn": Call(training.learn,
                  lambda: dict(model=vit(), loss_of=square_of_logits, steps=2, recipe=PLAIN, seed=0, device="cpu"),
                  dict(model=Module(), loss_of=Function(), steps=Count(1, 10**12), recipe=Thing(), seed=Seed(), device=DEVICE)),
    # vit_helpers.scenes
    "mosaics": Call(scenes.mosaics,
                    lambda: dict(tiles=few_tiles(6, 8, 8), n=2, size=12, regions=3, bend=0.1, generator=seeded()),
                    dict(tiles=Labelled(), n=Count(0), size=Count(), regions=Count(), bend=Maybe(Number(-np.inf, np.inf)),
                         generator=Random())),
    "objects": Call(scenes.objects, lambda: dict(tiles=few_tiles(6, 8, 8), n=2, size=32, counts=(1, 2), sides=(4, 8),
                                                 generator=seeded()),
                    dict(tiles=Labelled(), n=Count(0), size=Count(), counts=Many(Count(0), bound=False),
                         sides=Many(Count(), bound=False), generator=Random())),
    "clips": Call(scenes.clips, lambda: dict(tiles=few_tiles(6, 8, 8), n=2, frames=4, size=8, generator=seeded()),
                  dict(tiles=Labelled(), n=Count(0), frames=Count(4), size=Count(2), generator=Random())),
    # vit_helpers.heads
    "Segmenter": Call(heads.Segmenter, lambda: dict(encoder=vit(), num_classes=3, decoder="pixels"),
                      dict(encoder=Module(VisionTransformer), num_classes=Count(), decoder=Choice())),
    "Segmenter.forward": Call(lambda images: heads.Segmenter(vit(), 3)(images), lambda: dict(images=drawn(2, 3, 8, 12)),
                              dict(images=IMAGES), lambda images: (len(images), 3, 8, 12)),
    "segmentation_loss": Call(heads.segmentation_loss,
                              lambda: dict(logits=drawn(2, 3, 4, 5), masks=torch.arange(40).reshape(2, 4, 5) % 3),
                              dict(logits=Tensor("=.=="), masks=Tensor("===", "whole", 0, 2)), lambda logits, masks: ()),
    "segment": Call(heads.segment, lambda: dict(model=heads.Segmenter(vit(), 3), images=pixels(2, 3, 8, 12), batch_size=1),
                    dict(model=Module(), images=Tensor(".===", "whole"), batch_size=Count()),
                    lambda model, images, batch_size: (len(images), 8, 12)),
    "intersection_over_union": Call(heads.intersection_over_union, lambda: dict(confusion=torch.arange(9).reshape(3, 3)),
                                    dict(confusion=Tensor("==", "whole"))),
    "Detector": Call(heads.Detector, lambda: dict(encoder=vit(), queries=(1, 2)),
                     dict(encoder=Module(VisionTransformer), queries=Grid())),
    "Detector.forward": Call(lambda images: heads.Detector(vit(), (1, 2))(images), lambda: dict(images=drawn(2, 3, 8, 12)),
                             dict(images=IMAGES), lambda images: (len(images), 2, 4)),
    "overlap": Call(heads.overlap, lambda: dict(a=boxes(3), b=boxes(3).flip(0)), dict(a=Tensor("*="), b=Tensor("*="))),
    "match": Call(heads.match,
                  lambda: dict(logits=drawn(3, 4), boxes=boxes(3), true_classes=torch.tensor([0, 2]), true_boxes=boxes(2)),
                  dict(logits=Tensor("=."), boxes=Tensor("=="), true_classes=Tensor("=", "whole", 0, 2),
                       true_boxes=Tensor("=="))),
    "standing_on": Call(heads.standing_on, lambda: dict(middles=drawn(5, 2).abs(), true_boxes=boxes(2)),
                        dict(middles=Tensor(".="), true_boxes=Tensor(".=")), lambda middles, true_boxes: (len(middles),)),
    "detection_loss": Call(
        heads.detection_loss,
        lambda: dict(logits=drawn(2, 3, 4), boxes=torch.stack([boxes(3)] * 2),
                     true_classes=[torch.tensor([0, 2]), torch.tensor([1])],
                     true_boxes=[boxes(2), boxes(1)], owners=[torch.tensor([0, -1, 1]), torch.tensor([-1, 0, 0])], nothing=0.5),
        dict(logits=Tensor("==."), boxes=Tensor("===", nan="any"), true_classes=Many(Tensor("=", "whole", 0, 2)),
             true_boxes=Many(Tensor("==")),
             owners=Maybe(Many(Tensor("=", "whole", -1, 1))), nothing=Number(0, np.inf))),
    "findings": Call(heads.findings, lambda: dict(logits=drawn(2, 3, 4), boxes=torch.stack([boxes(3)] * 2), least=0.1),
                     dict(logits=Tensor("==."), boxes=Tensor("==="), least=Number(-np.inf, np.inf))),
    "detect": Call(heads.detect,
                   lambda: dict(model=heads.Detector(vit(), (1, 2)), images=pixels(2, 3, 8, 12), least=0.0, batch=1),
                   dict(model=Module(heads.Detector), images=Tensor(".===", "whole"), least=Number(-np.inf, np.inf),
                        batch=Count())),
    "average_precision": Call(
        heads.average_precision,
        lambda: dict(detections=[(boxes(2), torch.tensor([0, 2]), torch.tensor([0.9, 0.4])),
                                 (boxes(1), torch.tensor([1]), torch.tensor([0.5]))],
                     truths=[(boxes(2), torch.tensor([0, 2])), (boxes(1), torch.tensor([1]))], num_classes=3,
                     thresholds=(0.5, 0.75)),
        dict(detections=Many(Tensor("=="), Tensor("=", "whole"), Tensor("=")),
             truths=Many(Tensor("=="), Tensor("=", "whole", 0, 2)),
             num_classes=Count(3), thresholds=Many(Number(0, 1), bound=False))),
    "DiffusionTransformer": Call(heads.DiffusionTransformer, lambda: dict(encoder=vit()),
                                 dict(encoder=Module(VisionTransformer))),
    "DiffusionTransformer.forward": Call(
        lambda noisy, time, labels: painter()(noisy, time, labels),
        lambda: dict(noisy=drawn(2, 3, 8, 12), time=torch.tensor([0.1, 0.7]), labels=torch.tensor([0, 3])),
        dict(noisy=Tensor("===="), time=Tensor("="), labels=Tensor("=", "whole")), lambda noisy, time, labels: noisy.shape),
    "on_the_way": Call(heads.on_the_way,
                       lambda: dict(images=drawn(2, 3, 4, 4), noise=drawn(2, 3, 4, 4, seed=1), time=torch.tensor([0.1, 0.7])),
                       dict(images=Tensor("===="), noise=Tensor("===="), time=Tensor("="))),
    "flow_matching_loss": Call(
        heads.flow_matching_loss, lambda: dict(model=painter(), images=drawn(2, 3, 8, 12), labels=torch.tensor([0, 3]),
                                               generator=seeded(), without_class=0.1),
        dict(model=Module(heads.DiffusionTransformer), images=Tensor("===="), labels=Tensor("=", "whole", 0, 3),
             generator=Random(),
             without_class=Number(0, 1))),
    "generate": Call(heads.generate, lambda: dict(model=painter(), labels=torch.tensor([0, 2]), guidance=2.0, steps=2,
                                                  generator=seeded(), keep=2),
                     dict(model=Module(heads.DiffusionTransformer), labels=Tensor(".", "whole", 0, 3),
                          guidance=Number(0, np.inf),
                          steps=Count(), generator=Random(), keep=Count(0)),
                     lambda model, labels, guidance, steps, generator, keep: (len(labels), 3, 8, 12)),
    "random_visible": Call(heads.random_visible,
                           lambda: dict(images=drawn(2, 3, 8, 12), grid=(2, 3), share=0.5, generator=seeded()),
                           dict(images=Tensor("....", "any", nan="any"), grid=Grid(), share=Number(0, 1, (False, False)),
                                generator=Random()),
                           lambda images, grid, share, generator: (len(images), max(1, round(grid[0] * grid[1] * share)))),
    "MaskedAutoencoder": Call(heads.MaskedAutoencoder, lambda: dict(encoder=vit(), width=8, depth=1, num_heads=2),
                              dict(encoder=Module(VisionTransformer), width=Count(), depth=Count(0), num_heads=Count())),
    "MaskedAutoencoder.forward": Call(
        lambda images, visible: heads.MaskedAutoencoder(vit(), 8, 1, 2)(images, visible),
        lambda: dict(images=drawn(2, 3, 8, 12), visible=torch.tensor([[0, 3], [1, 5]])),
        dict(images=Tensor("====", nan="any"), visible=Tensor("=.", "whole", 0, 5)), lambda images, visible: (2, 6, 48)),
    "masked_loss": Call(heads.masked_loss, lambda: dict(predicted=drawn(2, 6, 48), images=drawn(2, 3, 8, 12),
                                                        visible=torch.tensor([[0, 3], [1, 5]]), patch_size=4),
                        dict(predicted=Tensor("===", nan="any"), images=Tensor("====", nan="any"),
                             visible=Tensor("=.", "whole", 0, 5), patch_size=Size())),
    "VideoClassifier": Call(heads.VideoClassifier,
                            lambda: dict(encoder=vit(in_channels=6), frames=4, tubelet=2, attention="joint"),
                            dict(encoder=Module(VisionTransformer), frames=Count(), tubelet=Count(), attention=Choice())),
    "VideoClassifier.forward": Call(lambda clips: heads.VideoClassifier(vit(in_channels=6), 4, 2)(clips),
                                    lambda: dict(clips=drawn(2, 4, 3, 8, 12)), dict(clips=Tensor(".====")),
                                    lambda clips: (len(clips), 3)),
    "load_head": Call(lambda name: heads.load_head(name)[0], lambda: dict(name="masked"), dict(name=Choice())),
}

DRAWN = Tensor("=..", "pixels", 0, 255)                # one image
SOME = Tensor("=...", "pixels", 0, 255)                # as many images as something else
SCALE = Number(0, np.inf, (False, True))
NAMES = ("Forest", "River", "SeaLake")
FOUND = [(boxes(2), torch.tensor([0, 2]), torch.tensor([0.9, 0.4])), (boxes(1), torch.tensor([1]), torch.tensor([0.5]))]
TRUTH = [(boxes(2), torch.tensor([0, 2])), (boxes(1), torch.tensor([1]))]
CALLS |= {
    # vit_helpers.plotting
    "as_pixels": Call(plotting.as_pixels, lambda: dict(image=pixels(3, 8, 12)), dict(image=DRAWN)),
    "as_pixels, normalized": Call(plotting.as_pixels, lambda: dict(image=drawn(3, 8, 12)), dict(image=Tensor("=..", "pixels"))),
    "image_grid": Call(plotting.image_grid,
                       lambda: dict(images=pixels(3, 3, 8, 12), labels=["a", "b", "c"], columns=2, scale=1.0),
                       dict(images=SOME, labels=Maybe(Names()), columns=Count(), scale=SCALE)),
    "patch_lines": Call(plotting.patch_lines, lambda: dict(image=pixels(3, 8, 12), patch_size=4, width=4.0),
                        dict(image=DRAWN, patch_size=Count(), width=SCALE)),
    "predictions": Call(plotting.predictions, lambda: dict(images=pixels(2, 3, 8, 8), probabilities=drawn(2, 3).softmax(dim=1),
                                                           classes=NAMES, labels=torch.tensor([0, 2]), columns=2),
                        dict(images=SOME, probabilities=Tensor("=="), classes=Names(), labels=Maybe(Tensor("=", "whole", 0, 2)),
                             columns=Count())),
    "stages": Call(plotting.stages,
                   lambda: dict(image=pixels(3, 8, 12), patch_size=4, tokens=drawn(6, 16), positions=drawn(6, 16),
                                                 weights=drawn(6, 6), probabilities=drawn(3).softmax(dim=0), classes=NAMES),
                   dict(image=DRAWN, patch_size=Count(), tokens=Tensor("..", nan="gap"), positions=Tensor(".."),
                        weights=Tensor(".."),
                        probabilities=Tensor("="), classes=Names())),
    "curves": Call(plotting.curves, lambda: dict(lines={"a": [3.0, 2.0, 1.0], "b": [1.0, 2.0, 3.0]}, x=[1, 2, 4]),
                   dict(lines=Mapped(Values()), x=Maybe(Values()))),
    "bars": Call(plotting.bars, lambda: dict(names=["a", "b"], values=[0.25, 0.5]),
                 dict(names=Names(ints=True), values=Values())),
    "heatmap": Call(plotting.heatmap, lambda: dict(values=drawn(2, 3), rows=["a", "b"], columns=["x", "y", "z"], numbers=".2f"),
                    dict(values=Tensor("==", nan="any"), rows=Maybe(Names(ints=True)), columns=Maybe(Names(ints=True)),
                         numbers=TEXT)),
    "reliability": Call(plotting.reliability, lambda: dict(count=[1, 4], confidence=[0.2, 0.7], accuracy=[0.1, 0.8]),
                        dict(count=Values(), confidence=Values(), accuracy=Values())),
    "scatter": Call(plotting.scatter, lambda: dict(x=[1.0, 2.0, 3.0], y=[3.0, 2.0, 1.0], labels=[0, 2, 1], classes=NAMES),
                    dict(x=Values(), y=Values(), labels=Values(), classes=Names(bound=False))),
    "cell_maps": Call(plotting.cell_maps, lambda: dict(maps=drawn(2, 3, 4), labels=["a", "b"], mark=(1, 2), columns=2),
                      dict(maps=Tensor("=.."), labels=Names(), mark=Maybe(Many(Count(0), bound=False)), columns=Count())),
    "attention_on_image": Call(plotting.attention_on_image,
                               lambda: dict(image=pixels(3, 8, 12), weights=drawn(2, 2, 3).abs(), query=(1, 2),
                                            labels=["a", "b"]),
                               dict(image=DRAWN, weights=Tensor("=.."), query=Many(Count(0), bound=False),
                                    labels=Maybe(Names()))),
    "maps_on_images": Call(plotting.maps_on_images,
                           lambda: dict(images=pixels(2, 3, 8, 12), maps={"a": drawn(2, 2, 3)}, labels=["x", "y"]),
                           dict(images=SOME, maps=Mapped(Tensor("=..")), labels=Maybe(Names()))),
    "projection": Call(plotting.projection, lambda: dict(image=pixels(3, 8, 12), weights=drawn(3, 4, 4), values=drawn(2, 3)),
                       dict(image=DRAWN, weights=Tensor("=.."), values=Tensor(".."))),
    "explained": Call(plotting.explained, lambda: dict(known=[("one", prediction())]),
                      dict(known=Many(Text(), Thing(), bound=False))),
    "film_strips": Call(plotting.film_strips,
                        lambda: dict(clips=pixels(2, 3, 3, 8, 8), labels=["a", "b"], wrong=[False, True], scale=1.0),
                        dict(clips=Tensor("=.=..", "pixels", 0, 255), labels=Names(), wrong=Maybe(Flags()), scale=SCALE)),
    "segmentations": Call(plotting.segmentations,
                          lambda: dict(images=pixels(2, 3, 8, 8), masks={"a": regions(2), "b": regions(2)}, classes=NAMES,
                                       scale=1.0),
                          dict(images=SOME, masks=Mapped(Tensor("===", "whole", 0, 2)), classes=Names(bound=False),
                               scale=SCALE)),
    "land_use": Call(plotting.land_use, lambda: dict(picture_=pixels(3, 8, 8), masks={"a": regions(1)[0], "b": regions(1)[0]},
                                                     classes=NAMES, scale=1.0),
                     dict(picture_=DRAWN, masks=Mapped(Tensor("==", "whole", 0, 2)), classes=Names(bound=False), scale=SCALE)),
    "detections": Call(plotting.detections,
                       lambda: dict(images=pixels(2, 3, 8, 8), found=FOUND, truth=TRUTH, classes=NAMES, columns=2,
                                                         labels=["x", "y"]),
                       dict(images=SOME, found=Many(Tensor("=="), Tensor("=", "whole", 0, 2), Tensor("=")),
                            truth=Many(Tensor("=="), Tensor("=", "whole")), classes=Names(bound=False), columns=Count(),
                            labels=Maybe(Names(ints=True)))),
    "query_places": Call(plotting.query_places,
                         lambda: dict(boxes=torch.stack([boxes(2)] * 3), used=torch.tensor([[True, False]] * 3),
                                                             grid=(1, 2), anchors=drawn(2, 2).abs()),
                         dict(boxes=Tensor("==="), used=Tensor("==", "any"), grid=Grid(), anchors=Tensor("==", nan="any"))),
    # vit_helpers.widgets
    "widgets.patch_sizes": Call(widgets.patch_sizes, lambda: dict(image=pixels(3, 8, 12), patch_size=4),
                                dict(image=DRAWN, patch_size=Count(1, 8))),
    "widgets.projections": Call(widgets.projections, lambda: dict(image=pixels(3, 8, 12), filters={"a": drawn(2, 3, 4, 4)}),
                                dict(image=DRAWN, filters=Mapped(Tensor(".=.."  , nan="any")))),
    "widgets.position_similarity": Call(widgets.position_similarity,
                                        lambda: dict(tables={"a": drawn(6, 4)}, grid=(2, 3), cell=(1, 1)),
                                        dict(tables=Mapped(Tensor("=.")), grid=Grid(), cell=Many(Count(0), bound=False))),
    "widgets.attention": Call(widgets.attention, lambda: dict(image=pixels(3, 8, 12), maps=maps()[0], grid=(2, 3), cell=(1, 1)),
                              dict(image=DRAWN, maps=Tensor("..=="), grid=Grid(), cell=Many(Count(0), bound=False))),
    "widgets.learning_rates": Call(widgets.learning_rates, lambda: dict(study=pretrained.measured("learning_rate")),
                                   dict(study=Thing())),
    "widgets.predictions": Call(widgets.predictions, lambda: dict(tiles=few_tiles(), result=evaluated(), shown=2),
                                dict(tiles=Labelled(), result=Thing(), shown=Count(1, 100))),
    "widgets.patch_size_study": Call(widgets.patch_size_study,
                                     lambda: dict(image=pixels(3, 64, 64), study=pretrained.measured("patch_size")),
                                     dict(image=DRAWN, study=Thing())),
    "widgets.images_study": Call(widgets.images_study, lambda: dict(study=pretrained.measured("images")), dict(study=Thing())),
    "widgets.masked": Call(widgets.masked,
                           lambda: dict(image=drawn(3, 8, 12), model=heads.MaskedAutoencoder(vit(), 8, 1, 2), hidden=50),
                           dict(image=Tensor("===", nan="any"), model=Module(heads.MaskedAutoencoder), hidden=Count(5, 95))),
    "widgets.guidance": Call(widgets.guidance, lambda: dict(model=painter(), classes=NAMES, solver_steps=1, options=(0.0, 1.0)),
                             dict(model=Module(heads.DiffusionTransformer), classes=Names(), solver_steps=Count(),
                                  options=free("two ways of the same slider: numbers as in generate"))),
}




def square_of_logits(model, generator):
    return model(torch.randn(2, 3, 8, 12, generator=generator)).square().mean()


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name, call in CALLS.items() for argument in call.kinds])
def test_a_spoiled_argument_is_refused_by_its_value_or_changes_nothing(name, argument):
    call = CALLS[name]

    @settings(SEARCH, max_examples=LONGER or (1 if call.function.__module__.startswith(DRAWING) else 2))
    @given(st.data())
    def search(data):
        wrong = []
        clean = call.arguments()[argument]
        for spoiled in call.kinds[argument](data.draw, clean):
            try:
                check(name, argument, spoiled, clean)
            except Exception as problem:             # a crash, or what `check` found
                wrong.append(f"{argument}={describe(spoiled.value)} ({spoiled.rule}): {type(problem).__name__}: "
                             f"{str(problem)[:300]}")
        if wrong:
            pytest.fail(f"{name} with a spoiled {argument}:\n" + "\n".join(wrong), pytrace=False)

    search()


@pytest.mark.parametrize("name, spoiled, says", [
    ("curves", {"x": {"a": 1}}, "{'a': 1}"), ("bars", {"values": {"a": 1}}, "{'a': 1}"), ("reliability", {"count": {}}, "{}"),
    ("cell_maps", {"mark": [1, []]}, r"mark=\[1, \[\]\] must be \(row, column\)"),
    ("query_places", {"anchors": torch.zeros(2, 2, dtype=torch.complex64)}, "real numbers, not torch.complex64"),
    ("average_precision", {"truths": [(b.to(torch.complex64), c) for b, c in TRUTH]}, "real numbers, not torch.complex64"),
    ("scatter", {"labels": torch.full((3,), 2**40)}, f"labels holds {2**40};"),
    ("widgets.projections", {"image": pixels(3, 1, 12)}, "1 x 12 pixels is smaller than the .*, 4 x 4; give a larger one")])
def test_what_longer_searches_found_is_refused(name, spoiled, says):
    with pytest.raises((TypeError, ValueError), match=says):
        run(CALLS[name], {**CALLS[name].arguments(), **spoiled})


@pytest.mark.parametrize("name", CALLS)
def test_the_clean_calls_give_what_they_promise(name):
    call = CALLS[name]
    result = run(call, call.arguments())
    if call.shape:
        assert tuple(leaves(result)[0].shape) == tuple(call.shape(**call.arguments()))
    assert call.kinds.keys() <= call.arguments().keys() and (name.count(".") or callable(call.function))


# What has no entry, and why

EXCLUDED = {
    "by_budget": "takes any three values; the variable that it reads is tested in tests/test_runtime.py",
    "Progress": "tqdm's bar, fed by the training loop alone",
    "in_eval_mode": "takes a model that its callers have checked",
    "patiently": "takes the download of load_tiles or load_published; tests/test_eurosat.py",
    "written_whole": "takes a path; disks that are full or read-only: tests/test_faults.py",
    "save_checkpoint": "takes the parts of a run that fit has checked; tests/test_training.py",
    "load_checkpoint": "files of all kinds of damage: tests/test_training.py, tests/test_security.py",
    "load_weights": "files and dicts of all kinds of damage: tests/test_pretrained.py",
    "check_weights": "what load_weights and load_checkpoint ask",
    "load_published": "takes a name, as load_pretrained does, and then the network; tests/test_pretrained.py",
    "save_pretrained": "called by the benchmarks that train the shipped weights",
    "save_head": "called by the benchmarks that train the shipped heads",
    "History": "what fit fills; it has no arguments that anybody gives",
    "Prediction": "what predict gives", "check_classes": "what fit and evaluate ask", "check_recipe": "what fit and learn ask",
    "Labelled": "what Tiles are made of: Tiles.split and Tiles.subset",
    "Painter": "draws for synthetic_tiles, with its own numbers",
    "ripple": "draws for synthetic_tiles", "fill": "draws for synthetic_tiles", "blend": "draws for synthetic_tiles",
    "write_tensors": "what save_checkpoint and save_pretrained ask", "upright": "what load_picture and pack ask",
    "draw_patches": "what keep_some asks for",
    "Picture": "the figure that all functions of plotting return; Matplotlib's arguments",
    "widgets.Box": "made by the functions of widgets", "widgets.number": "the same", "widgets.steps": "the same",
    "widgets.place": "the same",
}
# Arguments of many functions, by name.
NOT_SPOILED = {
    **dict.fromkeys(("title", "xlabel", "ylabel", "unit"), "any text, and other values as Python writes them"),
    **dict.fromkeys(("limits", "size", "marker", "limit", "numbers"), "handed on to Matplotlib and to Python's format"),
    **dict.fromkeys(("logx", "logy", "names"), "whatever Python takes for true or false"),
    "share": "of a batch or a view: handed on by the training loop alone",
}
MODULES = (patches, model, attention, evaluation, data, synthetic, pretrained, pictures, recipes, cnn, runtime, training,
           scenes, checkpoints)


def public():
    """The names of all public functions and classes: what the packages export, and what their modules define."""
    names = {name for package in (vit_helpers, heads, plotting) for name in package.__all__ if callable(getattr(package, name))}
    for module in (*MODULES, widgets):
        prefix = "widgets." if module is widgets else ""
        names |= {prefix + name for name, value in vars(module).items()
                  if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")}
    return names


def test_every_public_name_is_spoiled_here_or_excluded_with_a_reason():
    entered = {name.partition(",")[0] if name.startswith("widgets.") else re.split(r"[.,]", name)[0] for name in CALLS}
    assert public() - entered - EXCLUDED.keys() == set(), "these need an entry in CALLS, or a reason in EXCLUDED"
    assert EXCLUDED.keys() <= public() and not EXCLUDED.keys() & entered


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_of_a_function_has_its_kind(name):
    call = CALLS[name]
    if not inspect.isclass(call.function) and call.function.__name__ != "<lambda>":
        missing = inspect.signature(call.function).parameters.keys() - call.kinds.keys() - NOT_SPOILED.keys()
        assert not missing, f"{name} has no kind for {sorted(missing)}"
