"""Attention maps, rollouts, distance and evidence: against cases by hand, and against what they must find."""

import pytest
import torch

from vit_helpers import VisionTransformer, attention, patch_evidence
from vit_helpers.attention import attention_maps, attention_rollout, gradient_rollout, on_patches

IMAGES = torch.randn(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def small(pool="mean", seed=0, depth=3, **options):
    """An untrained ViT of 2 x 3 patches with large random weights, so that attention is far from uniform."""
    torch.manual_seed(seed)
    model = VisionTransformer((8, 12), 4, embed_dim=16, depth=depth, num_heads=2, mlp_dim=32, num_classes=5,
                              pool=pool, positions="sincos", **options)
    for parameter in (*(p for p in model.parameters() if p.ndim == 2), model.head.bias[None]):
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.mark.parametrize(("pool", "N"), [("mean", 6), ("cls", 7)])
def test_maps_are_the_weights_that_the_model_uses(pool, N):
    model = small(pool)
    maps, x = attention_maps(model, IMAGES), model.embed(IMAGES)
    assert maps.shape == (3, 3, 2, N, N) and maps.dtype == torch.float32 and not maps.requires_grad
    for layer, block in enumerate(model.blocks):     # lesson 05 holds a layer's weights against PyTorch's
        weights = block.attn(block.norm1(x), return_weights=True)[1]
        torch.testing.assert_close(maps[:, layer], weights, atol=1e-4, rtol=1e-4)
        x = block(x)


@pytest.mark.parametrize("function", [attention_maps, gradient_rollout, patch_evidence])
def test_nothing_is_left_behind_and_images_do_not_change_each_others_explanation(function):
    model = small(dropout=0.5).train()
    found = function(model, IMAGES)
    assert torch.equal(found, function(small(dropout=0.5).requires_grad_(False), IMAGES))
    assert model.training and not found.requires_grad
    torch.testing.assert_close(found[1:2], function(model, IMAGES[1:2]), atol=1e-4, rtol=1e-4)
    assert (found - function(small(seed=1), IMAGES)).abs().max() > 1e-3
    assert all(p.grad is None for p in model.parameters())


def test_rows_of_the_rollout_sum_to_one_even_where_weights_were_taken_out():
    maps = torch.rand(2, 3, 2, 6, 6)                 # by hand and by loops: lesson 10
    torch.testing.assert_close(attention_rollout(maps).sum(dim=-1), torch.ones(2, 6))


def test_gradient_rollout_is_about_the_class_that_is_asked_for():
    model = small()
    predicted, found = model(IMAGES).argmax(dim=1), gradient_rollout(model, IMAGES)
    assert torch.equal(found, gradient_rollout(model, IMAGES, predicted.tolist()))
    assert not torch.allclose(found, gradient_rollout(model, IMAGES, (predicted + 1) % 5))
    with pytest.raises((ValueError, AssertionError, RuntimeError)):      # torch leaves the last image out
        gradient_rollout(model, IMAGES, [0, 1])


def test_on_patches_reads_what_the_head_reads():
    with_cls, patches_only = torch.rand(2, 7, 7), torch.rand(2, 6, 6)
    assert torch.equal(on_patches(with_cls, small("cls")), with_cls[:, 0, 1:].reshape(2, 2, 3))
    assert torch.equal(on_patches(patches_only, small()), patches_only.mean(dim=1).reshape(2, 2, 3))


def test_many_maps_are_never_held_at_once(monkeypatch):
    model, held, embed = small(), [], VisionTransformer.embed
    assert attention.bytes_of_maps(model) == attention_maps(model, IMAGES[:1]).numel() * 4
    monkeypatch.setattr(attention, "LIMIT", 40 * attention.bytes_of_maps(model))        # 40 images
    monkeypatch.setattr(model, "embed", lambda images: held.append(len(images)) or embed(model, images))
    many = torch.randn(41, 3, 8, 12)
    with pytest.raises(ValueError, match=r"of 41 images .*reduce=attention_rollout, or at most 40"):
        attention_maps(model, many)
    assert held == []
    flow = attention_maps(model, many, reduce=attention_rollout)
    assert flow.shape == (41, 6, 6) and max(held) <= 10 and sum(held) == 41
    torch.testing.assert_close(flow[:5], attention_rollout(attention_maps(model, many[:5])))
