"""How an answer is compared with what is wanted, and how both are put into words."""

import numbers

import numpy as np
import torch


def same(a, b):
    """Whether two nested tuples, lists and dictionaries of tensors and values are equal, to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype and torch.equal(
            torch.nan_to_num(a.detach()), torch.nan_to_num(b.detach()))
    if isinstance(a, torch.nn.Module):
        return same(dict(a.state_dict()), dict(b.state_dict()))      # its mode may change: who asks a model sets it to eval
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (str, numbers.Number)):
        return a == b or a != a                      # nan is the same as itself here
    return True                                      # functions and other objects are not looked into


def difference(got, wanted, tolerance, where="It returned"):
    """What distinguishes `got` from `wanted`, in a sentence; None if nothing does."""
    if got is None and wanted is not None:
        return f"{where} None: is there a `return` at the end?"
    if isinstance(wanted, torch.Tensor):
        return tensor_difference(got, wanted, tolerance, where)
    if isinstance(wanted, (tuple, list)):
        if not isinstance(got, (tuple, list)):
            hint = f" of {len(wanted)} values, as in `return a, b`" if isinstance(wanted, tuple) else ""
            return f"{where} {kind(got)}, wanted is a {type(wanted).__name__}{hint}."
        if len(got) != len(wanted):
            return f"{where} a {type(got).__name__} of {len(got)} values, wanted are {len(wanted)}."
        found = (difference(g, w, tolerance, f"{inside(where)} value {i + 1} is")
                 for i, (g, w) in enumerate(zip(got, wanted, strict=True)))
        return next((problem for problem in found if problem), None)
    if isinstance(wanted, dict):
        if not isinstance(got, dict) or got.keys() != wanted.keys():
            keys = f"a dictionary with {sorted(map(str, got))}" if isinstance(got, dict) else kind(got)
            return f"{where} {keys}, wanted is a dictionary with {sorted(map(str, wanted))}."
        found = (difference(got[key], value, tolerance, f"{inside(where)} [{key!r}] is") for key, value in wanted.items())
        return next((problem for problem in found if problem), None)
    return value_difference(got, wanted, tolerance, where)


def inside(where):
    """The beginning of a sentence about a part: "In what it returned," or "In what it returned, value 2," ..."""
    return "In what it returned," if where == "It returned" else where.removesuffix(" is") + ","


def tensor_difference(got, wanted, tolerance, where):
    if isinstance(got, np.ndarray):
        return f"{where} a NumPy array, wanted is a torch.Tensor: stay with torch from the input to the result."
    if not isinstance(got, torch.Tensor):
        return f"{where} {kind(got)}, wanted is a torch.Tensor of shape {tuple(wanted.shape)}."
    if got.shape != wanted.shape:
        return f"{where} a tensor of shape {tuple(got.shape)}, wanted is {tuple(wanted.shape)}."
    if got.dtype != wanted.dtype:
        return f"{where} a tensor of {got.dtype}, wanted is {wanted.dtype}."
    got, wanted = got.detach(), wanted.detach()
    if wanted.isfinite().all() and not got.isfinite().all():
        return f"{where} nan or infinite numbers: a division by zero, the logarithm of zero, or numbers that grow too large?"
    if torch.allclose(got.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    if wanted.numel() <= 16:
        return f"{where} {words(got)}\nwanted is    {words(wanted)}"
    off = (got.double() - wanted.double()).abs()
    at = tuple(int(i) for i in np.unravel_index(int(off.nan_to_num(torch.inf).argmax()), off.shape))
    return (f"{where} the right shape, but other numbers: {(off > tolerance).double().mean():.0%} of them are off, most of all "
            f"at {list(at)}: {words(got[at].item())}, wanted is {words(wanted[at].item())}.")


def value_difference(got, wanted, tolerance, where):
    if isinstance(got, (torch.Tensor, np.ndarray)) and got.ndim == 0:
        got = got.item()                         # one number is one number
    if isinstance(wanted, (bool, np.bool_)) or not isinstance(wanted, numbers.Number):
        right = type(got) is type(wanted) and got == wanted
    elif isinstance(got, bool) or not isinstance(got, numbers.Number):
        return f"{where} {kind(got)}, wanted is a number."
    else:
        right = abs(got - wanted) <= tolerance * max(1, abs(wanted))
    return None if right else f"{where} {words(got)}, wanted is {words(wanted)}."


def kind(value):
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def words(value):
    """A value as short text: small tensors in full, others by their shape."""
    if isinstance(value, torch.Tensor):
        if value.numel() > 16:
            return f"tensor {tuple(value.shape)}"
        rounded = torch.round(value.detach().double(), decimals=3) if value.is_floating_point() else value
        return str(rounded.tolist())
    if isinstance(value, torch.nn.Module):
        return type(value).__name__
    if isinstance(value, float):
        return "0" if abs(value) < 1e-6 else f"{value:.4g}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__}"


def call_text(name, case):
    shown = [f"tensor({words(v)})" if isinstance(v, torch.Tensor) and v.numel() <= 16 else words(v) for v in case]
    return f"Tried: {name}({', '.join(shown)})"
