"""What is asked of arguments where they enter, with messages for people: what is wrong, the value, what would do.

Each function takes arguments by their names and returns nothing: `whole(1, depth=depth)`.
"""

import math
from collections.abc import Mapping
from numbers import Integral, Real

import torch

MOST = 1_000_000                             # of anything that is counted; more would fill the memory of any machine


def told(value):
    """A value in few words: arrays by their type and shape, others as Python writes them, shortened."""
    if hasattr(value, "shape"):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    text = type(value).__name__ if isinstance(value, torch.nn.Module) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"


def whole(least=1, most=MOST, /, **values):
    """Raise ValueError unless each value is a whole number, Python's or NumPy's, from `least` to `most`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
            raise ValueError(f"{name}={told(value)} must be a whole number from {least} to {most:,}")


def number(least=-math.inf, most=math.inf, /, **values):
    """Raise ValueError unless each value is a finite number from `least` to `most`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and least <= value <= most):
            ends = f" from {least} to {most}" if math.isfinite(most) else f", {least} or more" if math.isfinite(least) else ""
            raise ValueError(f"{name}={told(value)} must be a finite number{ends}")


def above(least, /, **values):
    """Raise ValueError unless each value is a finite number above `least`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not least < value < math.inf:
            raise ValueError(f"{name}={told(value)} must be above {least}, and finite")


def one_of(choices, /, **values):
    """Raise ValueError unless each value is among the choices, which are text."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name}={told(value)} is unknown; choose {' or '.join(map(repr, choices))}")


def grid(**values):
    """Raise ValueError unless each value is (rows, columns), two whole numbers of at least 1."""
    for name, value in values.items():
        right = isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(side, Integral) for side in value)
        if not right or min(value) < 1 or value[0] * value[1] > MOST:
            raise ValueError(f"{name}={told(value)} must be (rows, columns), two whole numbers from 1, at most {MOST:,} cells; "
                             "choose (4, 4) or the like")


def tensor(axes, dtype=None, /, **values):
    """Raise what `shaped` raises, and ValueError for a tensor on the device "meta", which knows shapes and no numbers."""
    shaped(axes, dtype, **values)
    for name, value in values.items():
        if value.is_meta:
            raise ValueError(f"{name} is on the device 'meta', which knows shapes and no numbers; use 'cpu' or a GPU")


def shaped(axes, dtype=None, /, **values):
    """Raise TypeError or ValueError unless each value is a tensor with these axes and of this dtype.

    axes: names and lengths, such as "B 3 H W"; a name stands for the same length wherever it occurs, in all of the values.
    Only the axes B, n, m and k may be empty: no images, no objects. A leading "..." is for any number of axes.
    dtype: "float", "whole" (integers), or a torch.dtype; None for any.
    """
    lengths = {}
    for name, value in values.items():
        wanted = axes.split()
        shown = f"({', '.join(str(lengths.get(axis, axis)) for axis in wanted)}{',' * (len(wanted) == 1)})"
        if not torch.is_tensor(value):
            raise TypeError(f"{name} must be a tensor {shown}, not {told(value)}")
        shape = tuple(value.shape)
        if wanted[:1] == ["..."]:
            wanted = wanted[1:]
            shape = shape[max(0, len(shape) - len(wanted)):]
        fits = len(shape) == len(wanted) and all(
            length == (int(axis) if axis.isdigit() else lengths.setdefault(axis, length)) and (length or axis in "0Bnmk")
            for axis, length in zip(wanted, shape, strict=True))
        if not fits:
            raise ValueError(f"{name} must be {shown}, not {tuple(value.shape)}")
        right = {"float": value.is_floating_point(), None: True,
                 "whole": not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)}
        if not right.get(dtype, value.dtype == dtype):
            raise TypeError(f"{name} must be {dtype} {shown}, not {value.dtype}")


def array(**values):
    """Each value, a tensor, an array or numbers in lists, as a tensor; one of them alone. Raises TypeError for other things."""
    tensors = []
    for name, value in values.items():
        try:
            tensors.append(torch.as_tensor(value))
        except (TypeError, ValueError, RuntimeError, OverflowError) as problem:
            raise TypeError(f"{name} must be a tensor or numbers, not {told(value)}") from problem
    return tensors if len(tensors) > 1 else tensors[0]


def together(**values):
    """Raise ValueError unless all tensors are on the same device."""
    (first, one), *others = values.items()
    for name, value in others:
        if value.device != one.device:
            raise ValueError(f"{name} is on {value.device}, {first} on {one.device}; use .to({str(one.device)!r})")


def real(**values):
    """Raise TypeError where a tensor holds complex numbers."""
    for name, value in values.items():
        if value.is_complex():
            raise TypeError(f"{name} must be real numbers, not {value.dtype}")


def no_nan(**values):
    """Raise ValueError where a tensor holds nan."""
    for name, value in values.items():
        if value.isnan().any():
            raise ValueError(f"{name} holds nan, {value.isnan().sum().item():,} times in {value.numel():,} numbers; look where "
                             "it comes from")


def in_range(least, most, /, **values):
    """Raise ValueError unless all numbers of each tensor are from `least` to `most`; nan is not."""
    for name, value in values.items():
        wrong = value[~((value >= least) & (value <= most))]
        if len(wrong):
            found = wrong[0].item()
            found = int(found) if isinstance(found, float) and found.is_integer() else found
            raise ValueError(f"{name} holds {found}; it must be from {least} to {most}")


def generator(value):
    """Raise TypeError unless this is a torch.Generator of the CPU, or None for torch's own."""
    if value is not None and not (isinstance(value, torch.Generator) and value.device.type == "cpu"):
        raise TypeError(f"generator must be a torch.Generator on the CPU or None, not {told(value)}; "
                        "make one with torch.Generator().manual_seed(0)")


def device_of(model, needs=()):
    """The device of a model's weights. Raises TypeError unless it is a torch.nn.Module with weights and what it `needs`."""
    missing = [name for name in needs if not hasattr(model, name)]
    if not isinstance(model, torch.nn.Module) or missing:
        kind = "VisionTransformer" if needs == VIT else "model with weights, a torch.nn.Module"
        lacks = f", which has no .{missing[0]}" if isinstance(model, torch.nn.Module) else ""
        raise TypeError(f"model must be a {kind}, not {told(model)}{lacks}")
    first = next(model.parameters(), None)
    if first is None:
        raise ValueError(f"{told(model)} has no weights; give a model that has some")
    if first.is_meta:
        raise ValueError(f"{told(model)} is on the device 'meta', which holds no numbers; build it on 'cpu' or a GPU")
    return first.device


VIT = ("forward_features", "forward_head", "grid", "config")     # what makes a model a VisionTransformer


def tiles(**values):
    """Raise TypeError unless each value is Tiles or something like them, and ValueError if they are on the device "meta"."""
    for name, value in values.items():
        if isinstance(value, type) or not all(hasattr(value, each) for each in ("labels", "classes", "__len__")):
            raise TypeError(f"{name} must be Tiles, as load_tiles gives them, not {told(value)}")
        tensor("N" if len(value) else "n", "whole", **{f"{name}.labels": value.labels})


def function(**values):
    """Raise TypeError unless each value can be called."""
    for name, value in values.items():
        if not callable(value):
            raise TypeError(f"{name} must be a function, not {told(value)}")


def numbers(**values):
    """Each value, numbers in a row, as a NumPy array float64 (M,); one of them alone. All must be equally many.

    Raises TypeError or ValueError for what is no row of numbers, and for rows of different lengths.
    """
    rows, count = [], None
    for name, value in values.items():
        if isinstance(value, Mapping):                       # its names are no numbers
            raise TypeError(f"{name} must be numbers in a row, not {told(value)}")
        plain = torch.is_tensor(value) or isinstance(value, (str, bytes)) or hasattr(value, "shape")
        value = value if plain or not hasattr(value, "__iter__") else list(value)
        row = array(**{name: value})
        tensor("M", **{name: row}) if row.numel() else None
        if row.is_complex() or row.ndim != 1 or len(row) != (len(row) if count is None else count):
            raise ValueError(f"{name} must be {'' if count is None else count} numbers in a row, not {told(row)}")
        count = len(row)
        rows.append(row.detach().cpu().double().numpy())
    return rows if len(rows) > 1 else rows[0]


def as_many(count, /, **values):
    """Raise TypeError or ValueError unless each value is a list of `count` things, or None."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or isinstance(value, type):
            raise TypeError(f"{name} must be a list of {count}, not {told(value)}")
        if getattr(value, "shape", (1,)) == () or len(value) != count:
            many = told(value) if hasattr(value, "shape") else f"{len(value)}: {told(value)}"
            raise ValueError(f"{name} must be {count} in number, not {many}")


def named(**values):
    """Raise TypeError or ValueError unless each value is a dict with at least one name."""
    for name, value in values.items():
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name} must be a dict of names and values, not {told(value)}")
        if not value:
            raise ValueError(f"{name}={value} is empty; give at least one")


def names(count, /, **values):
    """Raise TypeError or ValueError unless each value is a list of `count` texts (None for any number)."""
    for name, value in values.items():
        if isinstance(value, str) or not hasattr(value, "__len__") or not all(isinstance(each, str) for each in value):
            raise TypeError(f"{name} must be a list of texts, not {told(value)}")
        if count is not None and len(value) != count:
            raise ValueError(f"{name} must be {count} texts, not {len(value)}: {told(value)}")


def study(value, what):
    """Raise TypeError unless this is what `measured(what)` gives."""
    if not isinstance(value, dict) or not value.get("rows") or what not in value["rows"][0]:
        raise TypeError(f"study must be what measured({what!r}) gives, not {told(value)}")
