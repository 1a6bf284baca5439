"""The model: its parts equal to PyTorch's own, the whole with the properties of a Vision Transformer."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import nn

from vit_helpers.embedding import ConvStem, PatchEmbedding, interpolate_positions, sincos_positions
from vit_helpers.model import MLP, EncoderBlock, MultiHeadSelfAttention, VisionTransformer
from vit_helpers.patches import patchify, random_patches, unpatchify

close = dict(atol=1e-5, rtol=1e-4)
SMALL = dict(img_size=(16, 24), patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_dim=48, dropout=0.0)
POOLS = pytest.mark.parametrize("pool", ["cls", "mean"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(**changes):
    """A small model in eval mode; its head is randomized, because one of zeros hides everything behind it."""
    model = VisionTransformer(**{**SMALL, **changes}).eval()
    nn.init.normal_(model.head.weight)
    return model


def images_for(model, batch=2):
    return torch.randn(batch, model.config["in_channels"], *model.img_size)


def test_attention_is_fused_except_in_bfloat16_on_a_cpu(monkeypatch):
    """Lesson 05 holds it against nn.MultiheadAttention, test_pretrained.py whole models with gradients."""
    ours, x, calls = MultiHeadSelfAttention(24, 3), torch.randn(2, 7, 24), []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *qkv: calls.append(qkv) or fused(*qkv))
    explicit, _ = ours(x, return_weights=True)
    assert len(calls) == 0
    torch.testing.assert_close(ours(x), explicit, **close)
    assert len(calls) == 1
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours(x)
    for found in (rounded, ours.bfloat16()(x.bfloat16())):
        assert len(calls) == 1 and found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), explicit, atol=0.03, rtol=0.05)


def test_dropout_is_off_in_eval_mode_only():
    drop, x = dict(dropout=0.5), torch.randn(4, 5, 16)
    for part in (MLP(16, 32, **drop), MultiHeadSelfAttention(16, 2, **drop), EncoderBlock(16, 2, 32, **drop)):
        assert not torch.equal(part.train()(x), part(x))
        assert torch.equal(part.eval()(x), part(x))


def test_patch_embedding_lifts_the_detail_of_patches_to_1():
    tokens = PatchEmbedding((2, 8), 3, 512)(0.12 * torch.randn(4, 3, 64, 64))        # as EuroSAT
    assert tokens.shape == (4, 256, 512) and 0.9 < tokens.std() < 1.1


@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_the_conv_stem_gives_one_token_for_each_patch_in_reading_order(patch_size):
    rows, columns = 8, 12
    images = torch.randn(2, 3, rows * patch_size, columns * patch_size)
    embedding = ConvStem(patch_size, 3, 32).eval()
    tokens = embedding(images)
    assert tokens.shape == (2, rows * columns, 32)
    assert tokens.min() < 0                          # no activation at the end
    changed = images.clone()
    changed[:, :, :patch_size, -patch_size:] += 1    # the last patch of the first row
    difference = (embedding(changed) - tokens).abs().amax(dim=(0, 2))
    assert difference[columns - 1] > 0 and difference[0] == difference[(rows - 1) * columns] == 0


def test_the_cls_token_has_no_sincos_position_and_a_formula_is_not_saved():
    for pool, prefix in (("cls", 1), ("mean", 0)):
        model = build(positions="sincos", pool=pool)
        assert torch.equal(model.pos_embed[0], F.pad(sincos_positions((2, 3), 32), (0, 0, prefix, 0)))
        assert "pos_embed" not in model.state_dict()


@pytest.mark.parametrize("prefix", [0, 1])
def test_interpolation_equals_timms_and_changes_nothing_on_the_same_grid(prefix):
    positions, cut = torch.randn(1, prefix + 24, 8), dict(old_size=(4, 6), num_prefix_tokens=prefix)
    for grid in ((8, 9), (2, 3), (9, 2)):
        found = interpolate_positions(positions, (4, 6), grid)
        torch.testing.assert_close(found, resample_abs_pos_embed(positions, grid, **cut), **close)
    same = interpolate_positions(positions, (4, 6), (4, 6))
    torch.testing.assert_close(same, positions, atol=1e-6, rtol=0)
    assert interpolate_positions(positions.bfloat16(), (4, 6), (8, 9)).dtype == torch.bfloat16


@pytest.mark.parametrize("positions", ["learned", "sincos", "none"])
@POOLS
def test_other_image_sizes(positions, pool):
    model = build(positions=positions, pool=pool)
    cls_position = model.pos_embed[0, 0].clone() if pool == "cls" and positions != "none" else None
    names, images = set(model.state_dict()), images_for(model)
    logits = model(images)
    torch.testing.assert_close(model.set_img_size((16, 24))(images), logits, **close)
    assert model.set_img_size((40, 32)) is model and model.grid == (5, 4) and model.img_size == (40, 32)
    for _ in range(2):
        assert model(images_for(model)).shape == (2, 10) and set(model.state_dict()) == names
        with pytest.raises(ValueError, match="image height 20 is not divisible by patch size 8"):
            model.set_img_size((20, 32))             # and nothing was changed
    assert cls_position is None or torch.equal(model.pos_embed[0, 0], cls_position)
    if positions == "learned":                       # positions are saved: the config builds a model they fit
        assert model.pos_embed.requires_grad and isinstance(model.pos_embed, nn.Parameter)
        VisionTransformer(**model.config).load_state_dict(model.state_dict())


@pytest.mark.parametrize(("stem", "positions", "pool"), [*itertools.product(
    ["linear", "conv"], ["learned", "sincos", "none"], ["cls", "mean"])])
def test_gradients_reach_every_parameter_and_eval_is_independent_of_the_batch(stem, positions, pool):
    model = build(stem=stem, positions=positions, pool=pool, dropout=0.3)
    images = images_for(model, 5)
    together = model(images)
    assert together.shape == (5, 10) and together.std(dim=0).min() > 1e-4            # the images do differ
    assert torch.equal(model(images), together)
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), together, **close)
    assert not torch.equal(model.train()(images), together)
    F.cross_entropy(model(images), torch.arange(5)).backward()
    parameters = dict(model.named_parameters())
    assert [name for name, p in parameters.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert ("cls_token" in parameters, "pos_embed" in parameters) == (pool == "cls", positions == "learned")


def test_parts_of_the_embeddings_are_dropped_out():
    model = VisionTransformer(**{**SMALL, "depth": 0, "dropout": 0.5})
    images = images_for(model)
    assert not torch.equal(model.forward_features(images), model.forward_features(images))


@POOLS
def test_kept_patches_are_those_with_these_numbers_and_cls_stays(pool):
    model, kept = build(pool=pool), torch.tensor([[5, 0], [3, 4], [1, 2]])
    images, prefix = images_for(model, 3), int(pool == "cls")
    whole = model.embed(images)
    x = torch.stack([torch.cat([tokens[:prefix], tokens[prefix + numbers]])
                     for tokens, numbers in zip(whole, kept, strict=True)])
    for block in model.blocks:
        x = block(x)
    torch.testing.assert_close(model.forward_features(images, kept), model.norm(x), **close)
    torch.testing.assert_close(model(images, kept), model.forward_head(model.norm(x)), **close)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.bfloat16, torch.complex64])
def test_patches_go_back_to_where_they_came_from(dtype):
    images = torch.randint(0, 256, (2, 5, 3 * 4, 7 * 6)).to(dtype)           # patches of 4 x 6 pixels
    patches = patchify(images, (4, 6))
    assert patches.shape == (2, 3 * 7, 5 * 4 * 6) and patches.dtype == dtype
    assert torch.equal(unpatchify(patches, (4, 6), (3, 7)), images)


def test_random_patches_are_distinct_fair_and_drawn_for_each_image():
    kept = random_patches(1000, 12, 1 / 3, torch.Generator().manual_seed(0))
    assert kept.shape == (1000, 4) and kept.dtype == torch.int64
    assert all(len(set(row)) == 4 for row in kept.tolist()) and len(set(map(tuple, kept.tolist()))) > 900
    assert torch.bincount(kept.flatten(), minlength=12).sub(1000 / 3).abs().max() < 60           # 4 sigma
    assert torch.equal(kept, random_patches(1000, 12, 1 / 3, torch.Generator().manual_seed(0)))
    assert random_patches(2, 12, 1e-9).shape == (2, 1) and random_patches(2, 12, 1.0).shape == (2, 12)
