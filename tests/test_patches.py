"""Patches: cutting and putting back loses nothing, a random share is fair (the order: lesson 02)."""


import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_helpers import patchify, random_patches, unpatchify

small = st.integers(1, 4)
DTYPES = (torch.uint8, torch.int64, torch.bool, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@settings(deadline=None)
@given(B=small, C=small, rows=small, columns=small, P=small, Q=small, dtype=st.sampled_from(DTYPES))
def test_patches_go_back_to_where_they_came_from(B, C, rows, columns, P, Q, dtype):
    images = torch.randint(0, 256, (B, C, rows * P, columns * Q)).to(dtype)
    patches = patchify(images, (P, Q))
    assert patches.shape == (B, rows * columns, C * P * Q) and patches.dtype == dtype
    assert torch.equal(unpatchify(patches, (P, Q), (rows, columns)), images)


def test_random_patches_are_distinct_fair_and_drawn_for_each_image():
    kept = random_patches(1000, 12, 1 / 3, torch.Generator().manual_seed(0))
    assert kept.shape == (1000, 4) and kept.dtype == torch.int64
    assert all(len(set(row)) == 4 for row in kept.tolist()) and len(set(map(tuple, kept.tolist()))) > 900
    assert torch.bincount(kept.flatten(), minlength=12).sub(1000 / 3).abs().max() < 60           # 4 sigma
    assert torch.equal(kept, random_patches(1000, 12, 1 / 3, torch.Generator().manual_seed(0)))
    assert random_patches(2, 12, 1e-9).shape == (2, 1) and random_patches(2, 12, 1.0).shape == (2, 12)
