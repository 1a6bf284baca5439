"""Exercises of lesson 17: memory of attention weights, checkpoints, weights as whole numbers."""

import torch

from .base import exercise


def counted(height, width, patch_size, batch_size, num_heads, depth,
            tokens=lambda rows, columns: rows * columns, power=2):
    return 4 * batch_size * depth * num_heads * tokens(height // patch_size, width // patch_size) ** power


@exercise(
    cases=lambda: [(8, 8, 4, 1, 2, 1), (64, 96, 8, 16, 4, 3), (224, 224, 16, 2, 12, 12)],
    mistakes={
        "each token is compared with every token, so it is N squared, not N.":
            lambda *case: counted(*case, power=1),
        "each head has weights of its own; multiply by their number.":
            lambda h, w, p, b, heads, depth: counted(h, w, p, b, 1, depth),
        "these are the weights of one layer; each layer has its own.":
            lambda h, w, p, b, heads, depth: counted(h, w, p, b, heads, 1),
        "these are numbers, not bytes; a float32 number takes 4 bytes.": lambda *case: counted(*case) // 4,
        "these are bits; a float32 number takes 32 bits, or 4 bytes.": lambda *case: counted(*case) * 8,
        "these are the weights of one image; the batch has several.":
            lambda h, w, p, b, heads, depth: counted(h, w, p, 1, heads, depth),
        "N counts the patches of one row only; take rows times columns.":
            lambda *case: counted(*case, tokens=lambda rows, columns: columns),
        "the grid is taken to be square; count its columns by the width.":
            lambda *case: counted(*case, tokens=lambda rows, columns: rows**2),
    })
def weights_bytes(height, width, patch_size, batch_size, num_heads, depth):
    return counted(height, width, patch_size, batch_size, num_heads, depth)


def least(layers, inside, entering, segments=lambda layers, n: -(-layers // n), working=lambda layers, n: n,
          longer=False, lengths=lambda layers: range(1, layers + 1)):
    options = [(entering * segments(layers, n) + inside * working(layers, n), -n if longer else n)
               for n in lengths(layers)]
    memory, n = min(options)
    return abs(n), memory


@exercise(
    cases=lambda: [(4, 3, 1), (16, 1, 1), (10, 2, 7), (48, 12, 1), (7, 1, 3), (12, 1, 2), (5, 1, 2)],
    mistakes={
        "all segments are counted as full; only the one being worked on holds what is inside.":
            lambda *case: least(*case, working=lambda layers, n: layers),
        "the last segment may be shorter, but it still counts: round their number up.":
            lambda *case: least(*case, segments=lambda layers, n: layers // n),
        "what enters is taken as one unit; it is `entering` units for each segment.":
            lambda layers, inside, entering: least(layers, inside, 1),
        "only lengths that divide the number of layers are tried; the last segment may be shorter.":
            lambda *case:
                least(*case, lengths=lambda layers: [n for n in range(1, layers + 1) if layers % n == 0]),
        "where two lengths need the same, return the shorter one.": lambda *case: least(*case, longer=True),
        "memory and length are swapped; the length comes first.": lambda *case: least(*case)[::-1],
        "what enters is counted once for each layer; with segments it is kept once for each segment.":
            lambda *case: least(*case, segments=lambda layers, n: layers),
    })
def best_segment(layers, inside, entering):
    return least(layers, inside, entering)


def largest(weight):
    return weight.abs().amax(dim=1, keepdim=True)


def whole(weight, bits, size=largest, most=lambda bits: 2 ** (bits - 1) - 1, cut=torch.round, zero=1.0):
    scale = size(weight) / most(bits)
    scale = torch.where(scale == 0, zero, scale)
    return cut(weight / scale).nan_to_num().int().to(torch.int8), scale         # too large ones wrap


def some_rows(bits, R, C):
    weight = torch.randn(R, C) * torch.logspace(-2, 1, R)[:, None]
    weight[0, 0] = -4.0                              # the largest of its row has a minus
    weight[R // 2] = 0
    return weight, bits


@exercise(
    cases=lambda: [(torch.tensor([[0.6, -1.0, 0.2], [0.0, 0.0, 0.0]]), 8), some_rows(8, 5, 7),
                   some_rows(4, 6, 3), some_rows(2, 3, 4)],
    mistakes={
        "a row of zeros has the scale 0 here, and 0 / 0 is nan; give such a row the scale 1.":
            lambda *case: whole(*case, zero=0.0),
        "this is one scale for the whole matrix; each row has its own, dim=1.":
            lambda *case: whole(*case, size=lambda weight: weight.abs().max().expand(len(weight), 1)),
        "the scale comes from the largest number with its sign; a large negative weight then does not fit. "
        "Take the absolute values first.":
            lambda *case: whole(*case, size=lambda weight: weight.amax(dim=1, keepdim=True)),
        "the largest weight becomes 2^(bits - 1), one too many: a signed byte ends at 127.":
            lambda *case: whole(*case, most=lambda bits: 2 ** (bits - 1)),
        "one bit is the sign, so the largest whole number is 2^(bits - 1) - 1, not 2^bits - 1.":
            lambda *case: whole(*case, most=lambda bits: 2**bits - 1),
        "the decimals are cut off: converting to int8 rounds toward zero; call round() before it.":
            lambda *case: whole(*case, cut=torch.trunc),
        "the scale is upside down: numbers times scale must be about the weight.":
            lambda weight, bits: (whole(weight, bits)[0], 1 / whole(weight, bits)[1]),
        "scales and numbers are swapped; the numbers come first.": lambda *case: whole(*case)[::-1],
        "the scales have the shape (R,); with keepdim=True they are (R, 1), one for each row.":
            lambda weight, bits: (whole(weight, bits)[0], whole(weight, bits)[1][:, 0]),
        "the whole numbers are still floats; turn them into torch.int8.":
            lambda weight, bits: (whole(weight, bits)[0].float(), whole(weight, bits)[1]),
    })
def quantize(weight, bits):
    return whole(weight, bits)
