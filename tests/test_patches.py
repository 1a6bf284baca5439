"""Patches: cutting and putting back loses nothing, and the order is PyTorch's."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_helpers import patch_grid, patchify, unpatchify

small = st.integers(1, 4)
DTYPES = (torch.uint8, torch.int64, torch.bool, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@settings(deadline=None)
@given(B=small, C=small, rows=small, columns=small, P=small, Q=small, dtype=st.sampled_from(DTYPES))
def test_patches_go_back_to_where_they_came_from(B, C, rows, columns, P, Q, dtype):
    images = torch.randint(0, 256, (B, C, rows * P, columns * Q)).to(dtype)
    patches = patchify(images, (P, Q))
    assert patches.shape == (B, rows * columns, C * P * Q) and patches.dtype == dtype
    assert torch.equal(unpatchify(patches, (P, Q), (rows, columns)), images)


def test_a_4x4_image_by_hand():
    image = torch.arange(16).reshape(1, 1, 4, 4)
    assert patchify(image, 2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
    assert patchify(image, (1, 4)).tolist() == image[0].tolist()


@pytest.mark.parametrize("patch_size", [4, 8, (2, 8), (6, 1)])
def test_order_is_that_of_unfold(patch_size):
    images = torch.randn(2, 3, 24, 16)
    reference = F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)
    assert torch.equal(patchify(images, patch_size), reference)


def test_works_on_views_that_are_not_contiguous():
    images = torch.randn(2, 8, 6, 3).permute(0, 3, 1, 2)
    assert torch.equal(patchify(images, 2), patchify(images.contiguous(), 2))


def test_gradients_pass_through():
    images = torch.randn(1, 3, 8, 8, requires_grad=True)
    weights = torch.randn(1, 3, 8, 8)
    (unpatchify(patchify(images, 4), 4, (2, 2)) * weights).sum().backward()
    assert torch.equal(images.grad, weights)


def test_the_grid_is_rows_and_columns():
    assert patch_grid((32, 64), 8) == (4, 8)
    assert patch_grid(64, (8, 16)) == (8, 4)
    assert patch_grid(np.int64(64), np.int64(8)) == (8, 8)
    assert patch_grid(torch.zeros(48, 64).shape, 16) == (3, 4)


@pytest.mark.parametrize(("img_size", "patch_size"), [
    (64, 7), (64, 48), (64, 100), (224, 15), (31, 2),
    ((64, 48), 33),                      # 64 is the nearest for the height, but does not tile the width
    ((48, 64), 32), ((60, 64), 8), ((64, 64), (8, 7)), ((30, 64), (7, 8)),
])
def test_patches_that_do_not_tile_are_refused_with_sizes_that_do(img_size, patch_size):
    with pytest.raises(ValueError, match="is not divisible by patch size") as error:
        patch_grid(img_size, patch_size)
    sides, patches = np.broadcast_to(img_size, 2), np.broadcast_to(patch_size, 2)
    wrong = next(patch for side, patch in zip(sides, patches, strict=True) if side % patch)
    assert f"patch size {wrong};" in str(error.value)
    suggested = re.search("such as (.*)", str(error.value)).group(1).split(", ")
    assert suggested
    for size in map(int, suggested):
        if isinstance(patch_size, int):
            assert patch_grid(img_size, size)
        else:                            # each side has its own patch size: only the wrong one is replaced
            assert patch_grid(img_size, tuple(size if p == wrong else p for p in patch_size))


@pytest.mark.parametrize("size", [0, -8, 8.0, "8", None, (8,), (8, 8, 8), (8, 0), (8, 4.0)])
def test_a_size_that_is_none_is_named(size):
    with pytest.raises(ValueError, match="positive whole number") as error:
        patch_grid(64, size)
    assert repr(size) in str(error.value)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=re.escape("not (3, 8, 8)")):
        patchify(torch.zeros(3, 8, 8), 4)
    with pytest.raises(ValueError, match="image width 10 is not divisible by patch size 4"):
        patchify(torch.zeros(1, 3, 8, 10), 4)
    patches = patchify(torch.zeros(1, 3, 8, 12), 4)
    with pytest.raises(ValueError, match=re.escape("not (6, 48)")):
        unpatchify(patches[0], 4, (2, 3))
    with pytest.raises(ValueError, match="grid 2x2 has 4 places for 6 patches"):
        unpatchify(patches, 4, (2, 2))
    with pytest.raises(ValueError, match="48 values does not divide into channels of 5x5"):
        unpatchify(patches, 5, (2, 3))
