"""The model: every part equal to PyTorch's own, the whole with the properties that a Vision Transformer has."""

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit_helpers import (
    MLP,
    EncoderBlock,
    MultiHeadSelfAttention,
    PatchEmbedding,
    VisionTransformer,
    interpolate_positions,
    normalize,
    patchify,
    sincos_positions,
    unpatchify,
)
from vit_helpers.cnn import SmallCNN

close = dict(atol=1e-5, rtol=1e-4)
SMALL = dict(img_size=(16, 24), patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_dim=48, dropout=0.0)


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


def suggestions(error):
    """The whole numbers that a message offers after "choose"."""
    return [int(number) for number in re.findall(r"\d+", str(error.value).split("choose")[1])]


# Attention and the block, against PyTorch's

def attention_pair(embed_dim=24, num_heads=3):
    ours = MultiHeadSelfAttention(embed_dim, num_heads)
    theirs = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
    for linear in (ours.qkv, ours.proj):                     # biases start at zero, where a lost one would not be seen
        nn.init.normal_(linear.weight, std=0.3)
        nn.init.normal_(linear.bias)
    copies = {"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias,
              "out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias}
    theirs.load_state_dict({name: value.detach() for name, value in copies.items()})
    return ours, theirs


def test_attention_equals_multihead_attention_with_its_weights_and_gradients():
    ours, theirs = attention_pair()
    x = torch.randn(2, 7, 24, requires_grad=True)
    mixed, weights = ours(x, return_weights=True)
    reference, reference_weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(mixed, reference, **close)
    torch.testing.assert_close(weights, reference_weights, **close)
    torch.testing.assert_close(ours(x), reference, **close)
    pull = torch.randn_like(mixed)
    parameters = [theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj.weight]
    wanted = torch.autograd.grad(reference, [x, *parameters], pull)
    for output in (ours(x), mixed):
        found = torch.autograd.grad(output, [x, ours.qkv.weight, ours.qkv.bias, ours.proj.weight], pull)
        for mine, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, other, **close)


def test_the_fused_path_equals_the_explicit_one(monkeypatch):
    ours, theirs = attention_pair()
    x, calls, fused = torch.randn(2, 7, 24), [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *q: calls.append(len(calls)) or fused(*q))
    explicit, _ = ours(x, return_weights=True)
    assert len(calls) == 0
    quick = ours(x)
    assert len(calls) == 1 and quick.requires_grad
    torch.testing.assert_close(quick, explicit, **close)
    torch.testing.assert_close(quick, theirs(x, x, x, need_weights=False)[0], **close)
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):                      # explicit where the fused kernel is slower
        rounded = ours(x)
    assert len(calls) == 0 and rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), explicit, atol=0.02, rtol=0.05)


def test_attention_equals_scaled_dot_product_attention_on_its_own_queries_keys_and_values():
    ours, _ = attention_pair(24, 3)
    x = torch.randn(2, 7, 24)
    q, k, v = (F.linear(x, ours.qkv.weight[i * 24:][:24], ours.qkv.bias[i * 24:][:24]) for i in range(3))
    heads = [F.scaled_dot_product_attention(q[..., i:i + 8], k[..., i:i + 8], v[..., i:i + 8]) for i in (0, 8, 16)]
    torch.testing.assert_close(ours(x), ours.proj(torch.cat(heads, dim=-1)), **close)


def test_attention_of_two_tokens_by_hand():
    attention = MultiHeadSelfAttention(1, 1)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.tensor([[1.0], [1.0], [10.0]]))     # q = x, k = x, v = 10 x
        attention.qkv.bias.zero_()
        attention.proj.weight.fill_(1)
        attention.proj.bias.zero_()
    mixed, weights = attention(torch.tensor([[[0.0], [1.0]]]), return_weights=True)
    share = math.e / (1 + math.e)
    torch.testing.assert_close(weights[0, 0], torch.tensor([[0.5, 0.5], [1 - share, share]]))
    torch.testing.assert_close(mixed[0, :, 0], torch.tensor([5.0, 10 * share]))


def test_a_block_equals_pytorchs_encoder_layer():
    ours = EncoderBlock(24, 3, 40)
    theirs = nn.TransformerEncoderLayer(24, 3, 40, dropout=0.0, activation="gelu", layer_norm_eps=1e-6,
                                        batch_first=True, norm_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
             "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}
    weights = ours.state_dict()
    theirs.load_state_dict({f"{their}{kind}": weights[f"{our}{kind}"] for their, our in names.items()
                            for kind in ("weight", "bias")})
    x = torch.randn(2, 7, 24)
    for mode in (True, False):                               # PyTorch has a separate, fused path for eval mode
        with torch.set_grad_enabled(mode):
            torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x), **close)
    output, weights = ours(x, return_weights=True)
    torch.testing.assert_close(output, ours(x), **close)
    assert weights.shape == (2, 3, 7, 7)


def test_dropout_is_off_in_eval_mode_only():
    drop = dict(dropout=0.5)
    for part in (MLP(16, 32, **drop), MultiHeadSelfAttention(16, 2, **drop), EncoderBlock(16, 2, 32, **drop)):
        x = torch.randn(4, 5, 16)
        assert not torch.equal(part.train()(x), part(x))
        assert torch.equal(part.eval()(x), part(x))


# Patch embedding

@pytest.mark.parametrize("patch_size", [4, 8, (2, 8)])
def test_patch_embedding_equals_unfold_times_matrix(patch_size):
    images = torch.randn(2, 3, 16, 24)
    embedding = PatchEmbedding(patch_size, 3, 20)
    matrix = embedding.proj.weight.reshape(20, -1).T         # (C*P*P, D)
    tokens = embedding(images)
    unfolded = F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)
    torch.testing.assert_close(tokens, unfolded @ matrix + embedding.proj.bias, **close)
    torch.testing.assert_close(tokens, patchify(images, patch_size) @ matrix + embedding.proj.bias, **close)


@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_the_conv_stem_gives_one_token_for_each_patch(patch_size):
    images = torch.randn(2, 3, 32, 48)
    embedding = PatchEmbedding(patch_size, 3, 32, stem="conv")
    assert embedding(images).shape == (2, 32 // patch_size * 48 // patch_size, 32)
    # Tokens are in reading order: a change in the last patch reaches the last token, not the first.
    changed = images.clone()
    changed[:, :, -patch_size:, -patch_size:] += 1
    difference = (embedding(changed) - embedding(images)).abs().amax(dim=(0, 2))
    assert difference[-1] > 1e-3 and difference[0] == 0


def test_the_conv_stem_ends_with_a_convolution_not_with_an_activation():
    assert PatchEmbedding(4, 3, 32, stem="conv")(torch.randn(2, 3, 32, 32)).min() < -1     # GELU never goes below -0.17


def test_a_new_linear_stem_lifts_the_detail_of_a_tile_to_about_one():
    for patch_size in (4, (8, 16)):
        tokens = PatchEmbedding(patch_size, 3, 512)(0.12 * torch.randn(4, 3, 64, 64))
        assert 0.9 < tokens.std() < 1.1


def test_the_conv_stem_refuses_other_patch_sizes_and_names_some_that_do():
    for wrong in (1, 3, 12, (4, 8)):
        with pytest.raises(ValueError, match=re.escape(f"not {wrong}")) as error:
            PatchEmbedding(wrong, 3, 32, stem="conv")
    for size in re.findall(r"\d+", str(error.value).split("size of")[1].split("not")[0]):
        tokens = PatchEmbedding(int(size), 3, 32, stem="conv")(torch.randn(1, 3, 32, 32))
        assert tokens.shape == (1, (32 // int(size)) ** 2, 32)


# Positions

def test_the_sincos_table_against_its_formula():
    rows, columns, D = 3, 5, 16
    table = sincos_positions((rows, columns), D)
    assert table.shape == (15, 16) and table.dtype == torch.float32
    for row in range(rows):
        for column in range(columns):
            for k in range(D // 4):
                w = 10000 ** (-k / (D / 4))
                found = table[row * columns + column, k::D // 4].tolist()
                wanted = [math.sin(row * w), math.cos(row * w), math.sin(column * w), math.cos(column * w)]
                assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("positions", ["none", "learned", "sincos"])
def test_only_positions_tell_a_shuffled_image_from_the_original(positions, pool):
    model = build(img_size=32, positions=positions, pool=pool)
    images = images_for(model)
    order = torch.randperm(16)
    shuffled = unpatchify(patchify(images, 8)[:, order], 8, (4, 4))
    with torch.no_grad():
        difference = (model(images) - model(shuffled)).abs().max()
        if positions == "none":
            assert difference < 1e-5
            tokens, others = (model.forward_features(x)[:, -16:] for x in (images, shuffled))
            torch.testing.assert_close(tokens[:, order], others, **close)    # the tokens themselves are shuffled along
        else:
            assert difference > 1e-3


def test_the_cls_token_has_no_sincos_position():
    model = build(positions="sincos", pool="cls")
    assert torch.equal(model.pos_embed[0, 0], torch.zeros(32))
    assert torch.equal(model.pos_embed[0, 1:], sincos_positions((2, 3), 32))
    assert torch.equal(build(positions="sincos", pool="mean").pos_embed[0], sincos_positions((2, 3), 32))


def test_interpolation_onto_the_same_grid_changes_nothing():
    for prefix in (0, 1):
        positions = torch.randn(1, prefix + 15, 8)
        torch.testing.assert_close(interpolate_positions(positions, (3, 5), (3, 5)), positions, atol=1e-6, rtol=0)


def test_interpolation_keeps_rows_rows_and_columns_columns():
    by_row = torch.arange(4.0).repeat_interleave(6)          # a 4x6 grid; one feature knows the row, one the column
    by_column = torch.arange(6.0).repeat(4)
    positions = torch.stack([by_row, by_column, torch.full((24,), 7.0)], dim=1)[None]
    for grid in ((8, 9), (2, 3), (9, 2)):
        row, column, same = interpolate_positions(positions, (4, 6), grid)[0].T.reshape(3, *grid)
        torch.testing.assert_close(same, torch.full(grid, 7.0))
        torch.testing.assert_close(row, row[:, :1].expand(grid))
        torch.testing.assert_close(column, column[:1].expand(grid))
        assert (row.diff(dim=0) > 0).all() and (column.diff(dim=1) > 0).all()


@pytest.mark.parametrize("positions", ["learned", "sincos", "none"])
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_other_image_sizes(positions, pool):
    model = build(positions=positions, pool=pool)
    before = None if model.pos_embed is None else model.pos_embed.detach().clone()
    names, images = set(model.state_dict()), images_for(model)
    logits = model(images)
    torch.testing.assert_close(model.set_img_size((16, 24))(images), logits, **close)
    assert model.set_img_size((40, 32)) is model and model.grid == (5, 4) and model.img_size == (40, 32)
    assert model(torch.randn(2, 3, 40, 32)).shape == (2, 10)
    assert set(model.state_dict()) == names
    if pool == "cls" and before is not None:
        assert torch.equal(model.pos_embed[0, 0], before[0, 0])
    if positions == "learned":
        assert isinstance(model.pos_embed, nn.Parameter) and model.pos_embed.requires_grad
    with pytest.raises(ValueError, match="image height 20 is not divisible by patch size 8"):
        model.set_img_size((20, 32))
    assert model.grid == (5, 4) and model(torch.randn(2, 3, 40, 32)).shape == (2, 10)


# The whole model

COMBINATIONS = list(itertools.product(["linear", "conv"], ["learned", "sincos", "none"], ["cls", "mean"]))


@pytest.mark.parametrize(("stem", "positions", "pool"), COMBINATIONS)
def test_gradients_reach_every_parameter(stem, positions, pool):
    model = build(stem=stem, positions=positions, pool=pool).train()
    loss = F.cross_entropy(model(images_for(model, 4)), torch.arange(4))
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert ("cls_token" in dict(model.named_parameters())) == (pool == "cls")
    assert ("pos_embed" in dict(model.named_parameters())) == (positions == "learned")


@pytest.mark.parametrize(("stem", "positions", "pool"), COMBINATIONS)
def test_eval_is_deterministic_and_independent_of_the_batch(stem, positions, pool):
    model = build(stem=stem, positions=positions, pool=pool, dropout=0.3)
    images = images_for(model, 5)
    with torch.no_grad():
        together = model(images)
        assert together.shape == (5, 10) and together.std(dim=0).min() > 1e-3        # the images do differ
        assert torch.equal(model(images), together)
        torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), together, **close)
        torch.testing.assert_close(model(images.flip(0)), together.flip(0), **close)
        assert not torch.equal(model.train()(images), together)


def test_parameter_names_and_shapes_are_those_of_timm():
    found = {name: tuple(value.shape) for name, value in VisionTransformer(depth=2).state_dict().items()}
    block = {"norm1.weight": (128,), "norm1.bias": (128,), "attn.qkv.weight": (384, 128), "attn.qkv.bias": (384,),
             "attn.proj.weight": (128, 128), "attn.proj.bias": (128,), "norm2.weight": (128,), "norm2.bias": (128,),
             "mlp.fc1.weight": (256, 128), "mlp.fc1.bias": (256,), "mlp.fc2.weight": (128, 256), "mlp.fc2.bias": (128,)}
    assert found == {"cls_token": (1, 1, 128), "pos_embed": (1, 65, 128),
                     "patch_embed.proj.weight": (128, 3, 8, 8), "patch_embed.proj.bias": (128,),
                     **{f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()},
                     "norm.weight": (128,), "norm.bias": (128,), "head.weight": (10, 128), "head.bias": (10,)}


def test_what_is_not_learned_is_not_in_the_state_dict():
    for positions in ("sincos", "none"):
        found = set(build(positions=positions, pool="mean").state_dict())
        assert found == set(build().state_dict()) - {"pos_embed", "cls_token"}


def test_norms_and_activations_are_those_of_timm():
    model = VisionTransformer(depth=2)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    assert {m.approximate for m in model.modules() if isinstance(m, nn.GELU)} == {"none"}


def test_an_untrained_model_gives_every_class_the_same_probability():
    model = VisionTransformer(**SMALL)
    assert torch.equal(model(images_for(model)).softmax(dim=1), torch.full((2, 10), 0.1))


@pytest.mark.parametrize(("stem", "positions", "pool"), COMBINATIONS)
def test_attention_weights_on_request(stem, positions, pool):
    model = build(stem=stem, positions=positions, pool=pool)
    images, N = images_for(model), 6 + (pool == "cls")
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            tokens, weights = model.forward_features(images, return_weights=True)
            torch.testing.assert_close(tokens, model.forward_features(images), **close)
        assert tokens.shape == (2, N, 32) and weights.shape == (2, 2, 4, N, N)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 4, N))
        assert (weights >= 0).all()


def test_pooling():
    for pool, pooled in (("cls", lambda tokens: tokens[:, 0]), ("mean", lambda tokens: tokens.mean(dim=1))):
        model = build(pool=pool)
        images = images_for(model)
        torch.testing.assert_close(model(images), model.head(pooled(model.forward_features(images))), **close)


@pytest.mark.parametrize(("stem", "positions", "pool"), COMBINATIONS)
def test_embedding_is_patches_after_cls_plus_positions_and_dropout_comes_next(stem, positions, pool):
    model = build(stem=stem, positions=positions, pool=pool, depth=0, dropout=0.5)
    images = images_for(model)
    wanted = model.patch_embed(images)
    if pool == "cls":
        wanted = torch.cat([model.cls_token.expand(2, -1, -1), wanted], dim=1)
    if positions != "none":
        wanted = wanted + model.pos_embed
    torch.testing.assert_close(model.embed(images), wanted, **close)
    torch.testing.assert_close(model.forward_features(images), model.norm(wanted), **close)     # no blocks here
    assert not torch.equal(model.train().forward_features(images), model.forward_features(images))


def test_weights_come_in_the_order_of_the_blocks():
    model = build()
    images = images_for(model)
    maps, x = model.forward_features(images, return_weights=True)[1], model.embed(images)
    for i, block in enumerate(model.blocks):
        x, weights = block(x, return_weights=True)
        torch.testing.assert_close(maps[:, i], weights, **close)
    assert not torch.allclose(maps[:, 0], maps[:, 1], atol=1e-3)


def test_a_model_is_rebuilt_from_its_config():
    model = build(stem="conv", positions="sincos", pool="mean", in_channels=4, num_classes=3)
    twin = VisionTransformer(**model.config).eval()
    twin.load_state_dict(model.state_dict())
    images = images_for(model)
    assert torch.equal(twin(images), model(images))


# Bad input: the message names what was given and what would do, and what it offers does do

def test_image_not_divisible_by_patches():
    with pytest.raises(ValueError, match="image height 64 is not divisible by patch size 7") as error:
        VisionTransformer(img_size=64, patch_size=7)
    for size in suggestions(error):
        assert VisionTransformer(img_size=64, patch_size=size, depth=1)(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize(("embed_dim", "num_heads", "positions"), [
    (100, 8, "learned"), (3, 8, "none"), (102, 3, "sincos"), (100, 6, "sincos"), (3, 1, "sincos"), (130, 5, "sincos")])
def test_width_not_divisible_by_heads_or_by_four(embed_dim, num_heads, positions):
    with pytest.raises(ValueError, match=f"embed_dim={embed_dim} is not divisible by") as error:
        build(embed_dim=embed_dim, num_heads=num_heads, positions=positions)
    assert len(suggestions(error)) == 2
    for width in suggestions(error):
        model = build(embed_dim=width, num_heads=num_heads, positions=positions)
        assert model(images_for(model)).shape == (2, 10)


def test_parts_by_themselves_refuse_a_wrong_width():
    with pytest.raises(ValueError, match="embed_dim=100 is not divisible by num_heads=8; choose 96 or 104"):
        MultiHeadSelfAttention(100, 8)
    with pytest.raises(ValueError, match=r"embed_dim=30 is not divisible by 4 .*; choose 28 or 32"):
        sincos_positions((2, 2), 30)


@pytest.mark.parametrize(("option", "value"), [
    ("stem", "convolution"), ("positions", "sine"), ("pool", "max"), ("pool", None)])
def test_unknown_options(option, value):
    with pytest.raises(ValueError, match=re.escape(f"{option}={value!r} is unknown")) as error:
        build(**{option: value})
    choices = re.findall("'(.*?)'", str(error.value).split("choose")[1])
    assert len(choices) >= 2
    for choice in choices:
        assert build(**{option: choice}).config[option] == choice


@pytest.mark.parametrize("shape", [(2, 4, 16, 24), (2, 1, 16, 24), (3, 16, 24), (2, 3, 16), (1, 2, 3, 16, 24)])
def test_wrong_channels_or_axes_at_forward(shape):
    with pytest.raises(ValueError, match=re.escape(f"images must be (B, 3, 16, 24), not {shape}")):
        build()(torch.zeros(shape))


def test_wrong_image_size_at_forward():
    model = build()
    with pytest.raises(ValueError, match="takes 16x24 images, not 24x16") as error:
        model(torch.zeros(1, 3, 24, 16))
    height, width = re.search(r"set_img_size\(\((\d+), (\d+)\)\)", str(error.value)).groups()
    assert model.set_img_size((int(height), int(width)))(torch.zeros(1, 3, 24, 16)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"not 20x16; resize them$"):        # 20 is no multiple of the patch size
        model(torch.zeros(1, 3, 20, 16))


def test_images_that_are_not_normalized():
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"torch.uint8; turn them into floats .* vit_helpers\.normalize"):
        build()(images)
    assert build()(normalize(images)).isfinite().all()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_share_of_the_tokens_goes_through_the_blocks(pool):
    torch.manual_seed(0)
    model = build(pool=pool, positions="learned", depth=0).eval()
    images, prefix = torch.randn(5, 3, *model.img_size), int(pool == "cls")
    whole, few = model.forward_features(images), model.forward_features(images, keep_tokens=1 / 3)
    n = (whole.shape[1] - prefix) // 3
    assert n >= 1 and few.shape == (5, prefix + n, whole.shape[2])
    assert torch.equal(few[:, :prefix], whole[:, :prefix])                            # CLS always stays
    chosen = []
    for kept, tokens in zip(few[:, prefix:], whole[:, prefix:], strict=True):
        where = (kept[:, None] == tokens[None]).all(dim=2)                           # each kept one is one of the tokens, ...
        assert (where.sum(dim=1) == 1).all() and where.sum(dim=0).max() == 1         # ... position included, and only once
        chosen.append(tuple(where.nonzero()[:, 1].sort().values.tolist()))
    assert len(set(chosen)) > 1                                                      # another draw for each image
    assert model(images, keep_tokens=1e-9).shape == (5, 10)                          # at least one token


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_patches_can_be_chosen_by_number(pool):
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, embed_dim=16, depth=2, num_heads=2, mlp_dim=16, pool=pool).eval()
    torch.nn.init.normal_(model.head.weight)
    images, everything = torch.randn(2, 3, 16, 16), torch.arange(16).expand(2, -1)
    assert torch.allclose(model(images, keep_tokens=everything), model(images), atol=1e-5)
    assert torch.allclose(model(images, keep_tokens=everything.flip(1)), model(images), atol=1e-5)       # order does not matter
    few = torch.tensor([[3, 5], [0, 15]])
    logits, changed = model(images, keep_tokens=few), images.clone()
    changed[0, :, :4, :4] = 9.0                              # patch 0, which only the second image shows
    assert torch.equal(model(changed, keep_tokens=few), logits)
    changed[1, :, :4, :4] = 9.0
    assert not torch.allclose(model(changed, keep_tokens=few)[1], logits[1])


def test_the_forward_pass_is_made_of_its_parts():
    model = VisionTransformer(16, 4, embed_dim=16, depth=2, num_heads=2, mlp_dim=16).eval()
    images = torch.randn(2, 3, 16, 16)
    x = model.embed(images)
    assert x.shape == (2, 17, 16)
    for block in model.blocks:
        x = block(x)
    assert torch.allclose(model.forward_head(model.norm(x)), model(images), atol=1e-6)
    assert model.pooled(x).shape == (2, 16) and torch.equal(model.pooled(x), x[:, 0])


# The convolutional network that lesson 11 compares it with

def test_the_cnn_halves_the_image_once_in_each_of_its_four_stages():
    model = SmallCNN().eval()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 0.58
    images, sides = torch.randn(2, 3, 64, 64), []
    x, (*convolutions, _, _, head) = images, model
    for layer in convolutions:
        x = layer(x)
        sides += [x.shape[2]] if isinstance(layer, nn.ReLU) else []
    assert sides == [32, 32, 16, 16, 8, 8, 4, 4]
    torch.testing.assert_close(model(images), head(x.mean(dim=(2, 3))), **close)
