"""Attention maps, rollout, gradient rollout, distance and evidence: against slow loops, and against what they must find."""

import pytest
import torch

import vit_helpers.attention as module
from vit_helpers import VisionTransformer, attention_maps, attention_rollout, gradient_rollout, patch_evidence
from vit_helpers.attention import area, attention_distance, deletion_and_insertion, on_patches


def small(pool="mean", seed=0, depth=3, **options):
    """An untrained ViT of 4 x 6 patches with large random weights, so that attention is far from uniform."""
    torch.manual_seed(seed)
    model = VisionTransformer((16, 24), 4, embed_dim=16, depth=depth, num_heads=2, mlp_dim=32, num_classes=5, pool=pool,
                              positions="sincos", **options)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


IMAGES = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(1))
POOLS = pytest.mark.parametrize(("pool", "N"), [("mean", 24), ("cls", 25)])


@POOLS
def test_maps_are_the_weights_that_the_model_uses(pool, N):
    model = small(pool)
    maps = attention_maps(model, IMAGES)
    assert maps.shape == (3, 3, 2, N, N) and maps.dtype == torch.float32 and not maps.requires_grad
    assert torch.allclose(maps.sum(dim=-1), torch.ones(3, 3, 2, N), atol=1e-5)
    # Run the first block by hand with these weights in place of its own.
    model.eval()
    block, x = model.blocks[0], model.embed(IMAGES)
    _, _, v = block.attn.qkv(block.norm1(x)).reshape(3, N, 3, 2, 8).permute(2, 0, 3, 1, 4)
    mixed = block.attn.proj((maps[:, 0] @ v).transpose(1, 2).reshape(3, N, 16))
    assert torch.allclose(mixed, block.attn(block.norm1(x)), atol=1e-5)


def test_the_mode_of_the_model_is_put_back_and_dropout_is_off():
    model = small(dropout=0.5).train()
    assert torch.equal(attention_maps(model, IMAGES), attention_maps(model, IMAGES)) and model.training
    assert torch.equal(gradient_rollout(model, IMAGES), gradient_rollout(model, IMAGES))
    assert all(p.grad is None for p in model.parameters())


def test_rollout_of_uniform_attention_is_uniform_up_to_the_residual():
    N, L = 6, 3
    flow = attention_rollout(torch.full((1, L, 2, N, N), 1 / N))
    # Half stays in each block, so 1/2^L of each token is still itself; the rest is spread evenly.
    assert torch.allclose(flow[0], torch.eye(N) / 2**L + (1 - 1 / 2**L) / N, atol=1e-6)
    assert torch.allclose(on_patches(flow.expand(1, N, N), small_grid("mean", (2, 3))), torch.full((1, 2, 3), 1 / N))


def small_grid(pool, grid):
    return VisionTransformer((grid[0] * 4, grid[1] * 4), 4, embed_dim=8, depth=1, num_heads=1, mlp_dim=8, pool=pool)


@POOLS
def test_rollout_equals_a_slow_loop(pool, N):
    maps = attention_maps(small(pool), IMAGES)
    slow = torch.zeros(3, N, N)
    for b in range(3):
        flow = torch.eye(N)
        for layer in range(3):
            mixed = torch.zeros(N, N)
            for i in range(N):
                for j in range(N):
                    mixed[i, j] = 0.5 * sum(maps[b, layer, h, i, j] for h in range(2)) / 2 + 0.5 * (i == j)
                mixed[i] /= mixed[i].sum()
            flow = mixed @ flow
        slow[b] = flow
    found = attention_rollout(maps)
    assert torch.allclose(found, slow, atol=1e-6) and torch.allclose(found.sum(dim=-1), torch.ones(3, N), atol=1e-5)


def test_rollout_repairs_rows_that_do_not_sum_to_one_by_row():
    maps = attention_maps(small(), IMAGES)
    maps[..., 3] = 0                                         # as after dropping the weakest weights
    assert torch.allclose(attention_rollout(maps).sum(dim=-1), torch.ones(3, 24), atol=1e-5)


@POOLS
def test_gradient_rollout_equals_a_slow_loop(pool, N):
    """The gradient by finite differences of each single weight, so that no block can be taken for another."""
    model = small(pool, depth=2).double().eval()
    image, target, step = IMAGES[:1].double(), torch.tensor([3]), 1e-5

    def forward(change=None):
        """The logit and the maps; change = (block, head, i, j, amount) moves one attention weight."""
        x, maps = model.embed(image), []
        for number, block in enumerate(model.blocks):
            q, k, v = block.attn.qkv(block.norm1(x)).reshape(1, N, 3, 2, 8).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-2, -1) / 8**0.5).softmax(dim=-1)
            if change is not None and change[0] == number:
                weights = weights.clone()
                weights[0, change[1], change[2], change[3]] += change[4]
            maps.append(weights)
            x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(1, N, 16))
            x = x + block.mlp(block.norm2(x))
        return model.forward_head(model.norm(x))[0, 3], maps

    with torch.no_grad():
        maps, R = forward()[1], torch.eye(N, dtype=torch.double)
        for number in range(2):
            mixed = torch.zeros(N, N, dtype=torch.double)
            for h in range(2):
                for i in range(N):
                    for j in range(N):
                        up, down = (forward((number, h, i, j, sign * step))[0] for sign in (1, -1))
                        mixed[i, j] += max(0, (up - down) / (2 * step) * maps[number][0, h, i, j]) / 2
            R = R + mixed @ R
    assert torch.allclose(gradient_rollout(model, image, target)[0], R.float(), atol=1e-4)


def test_gradient_rollout_is_about_the_class_that_is_asked_for():
    model = small()
    predicted = model.eval()(IMAGES).argmax(dim=1)
    assert torch.equal(gradient_rollout(model, IMAGES), gradient_rollout(model, IMAGES, predicted))
    assert not torch.allclose(gradient_rollout(model, IMAGES), gradient_rollout(model, IMAGES, (predicted + 1) % 5))
    for wrong in ([0, 1], [0, 1, 5], [0.0, 1.0, 2.0], [-1, 0, 0]):
        with pytest.raises(ValueError, match="targets must be one class from 0 to 4 for each of the 3 images"):
            gradient_rollout(model, IMAGES, wrong)


def test_gradients_flow_where_all_weights_are_frozen():
    model = small().requires_grad_(False)
    assert gradient_rollout(model, IMAGES).sub(torch.eye(24)).abs().sum() > 0


@POOLS
def test_images_do_not_change_each_others_maps(pool, N):
    model = small(pool)
    for function in (attention_maps, gradient_rollout):
        together = function(model, IMAGES)
        assert torch.allclose(together[1:2], function(model, IMAGES[1:2]), atol=1e-5)


def test_a_model_with_other_weights_gives_another_map():
    for function in (lambda m: attention_rollout(attention_maps(m, IMAGES)), lambda m: gradient_rollout(m, IMAGES),
                     lambda m: patch_evidence(m, IMAGES)):
        a, b = (function(small(seed=seed)) for seed in (0, 1))
        assert (a - b).abs().max() > 1e-3


def test_on_patches_reads_what_the_head_reads():
    flow = torch.rand(2, 25, 25)
    assert torch.equal(on_patches(flow, small("cls")), flow[:, 0, 1:].reshape(2, 4, 6))
    assert torch.allclose(on_patches(flow[:, 1:, 1:], small("mean")), flow[:, 1:, 1:].mean(dim=1).reshape(2, 4, 6))


def test_attention_distance_by_hand():
    N = 6                                                    # 2 x 3 patches
    self_only = torch.eye(N).expand(1, 1, 1, N, N)
    assert attention_distance(self_only, (2, 3)).item() == 0
    to_first = torch.zeros(1, 1, 1, N, N)
    to_first[..., 0] = 1                                     # distances 0, 1, 2, 1, sqrt 2, sqrt 5
    assert attention_distance(to_first, (2, 3)).item() == pytest.approx((0 + 1 + 2 + 1 + 2**0.5 + 5**0.5) / 6)
    with_cls = torch.nn.functional.pad(to_first, (1, 0, 1, 0), value=0.5)            # what CLS gives and takes does not count
    assert attention_distance(with_cls, (2, 3)).item() == pytest.approx(attention_distance(to_first, (2, 3)).item())
    with pytest.raises(ValueError, match="maps of 6 tokens do not belong to a grid of 2 x 2 = 4 patches"):
        attention_distance(to_first, (2, 2))


def test_evidence_adds_up_to_the_logits():
    model = small().eval()
    torch.nn.init.normal_(model.head.bias)                   # it starts at zero, where a forgotten one would not be seen
    evidence = patch_evidence(model, IMAGES)
    assert evidence.shape == (3, 24, 5)
    assert torch.allclose(evidence.mean(dim=1), model(IMAGES), atol=1e-5)
    with pytest.raises(ValueError, match="needs a model with pool='mean'; with pool='cls'"):
        patch_evidence(small("cls"), IMAGES)


def test_deletion_and_insertion_show_the_patches_they_say():
    model = small().eval()
    relevance = torch.arange(24.0).reshape(1, 4, 6).expand(3, -1, -1)                # the last patch is the best
    shown, deletion, insertion = deletion_and_insertion(model, IMAGES, relevance, points=4)
    assert shown.tolist() == [1, 9, 16, 24] and deletion.shape == insertion.shape == (3, 4)
    predicted = model(IMAGES).argmax(dim=1)
    for kept, value in ((torch.arange(9), deletion[:, 1]), (torch.arange(15, 24), insertion[:, 1])):
        logits = model(IMAGES, keep_tokens=kept.expand(3, -1))
        assert torch.allclose(logits.softmax(dim=1)[torch.arange(3), predicted], value, atol=1e-5)
    assert torch.allclose(deletion[:, -1], insertion[:, -1], atol=1e-5)              # all patches, either way
    assert area(torch.tensor([1, 3]), torch.tensor([[0.0, 1.0]])).item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"relevance must be \(3, 4, 6\)"):
        deletion_and_insertion(model, IMAGES, relevance[:, :3])


def test_many_maps_are_never_held_at_once(monkeypatch):
    model, held = small(), []
    monkeypatch.setattr(module, "LIMIT", 40 * module._bytes_of_maps(model))          # 40 images
    assert module._bytes_of_maps(model) == attention_maps(model, IMAGES[:1]).numel() * 4
    forward = model.forward_features
    monkeypatch.setattr(model, "forward_features", lambda x, **options: held.append(len(x)) or forward(x, **options))
    many = torch.randn(41, 3, 16, 24)
    with pytest.raises(ValueError, match=r"maps of 41 images would take .* MB, .*reduce=attention_rollout, or at most 40"):
        attention_maps(model, many)
    assert held == []
    flow = attention_maps(model, many, reduce=attention_rollout)
    assert flow.shape == (41, 24, 24) and max(held) <= 10 and sum(held) == 41
    assert torch.allclose(flow[:5], attention_rollout(attention_maps(model, many[:5])), atol=1e-6)


def test_the_maps_of_a_thousand_tiles_are_over_the_limit():
    model = VisionTransformer()
    assert 1000 * module._bytes_of_maps(model) > module.LIMIT


@pytest.mark.parametrize("function", [attention_maps, gradient_rollout, patch_evidence])
def test_no_images_and_wrong_images_are_refused(function):
    with pytest.raises(ValueError, match="there are no images to explain"):
        function(small(), IMAGES[:0])
    with pytest.raises(ValueError, match="takes 16x24 images, not 16x16"):
        function(small(), IMAGES[..., :16])
    with pytest.raises(TypeError, match="normalize"):
        function(small(), torch.zeros(1, 3, 16, 24, dtype=torch.uint8))


def test_maps_of_another_shape_are_refused():
    for function in (attention_rollout, lambda maps: attention_distance(maps, (2, 3))):
        with pytest.raises(ValueError, match=r"maps must be \(B, L, H, N, N\)"):
            function(torch.rand(1, 2, 6, 6))


@pytest.fixture(scope="module")
def planted():
    """A ViT that learned to name the color of the one colored patch among gray noise, with new images and the places."""
    def make(n, generator):
        labels = torch.randint(0, 3, (n,), generator=generator)
        places = torch.randint(0, 16, (n,), generator=generator)
        images = 0.2 * torch.randn(n, 1, 16, 16, generator=generator).expand(n, 3, 16, 16).clone()
        for image, label, place in zip(images, labels, places, strict=True):
            row, column = divmod(place.item(), 4)
            image[label, 4 * row:4 * row + 4, 4 * column:4 * column + 4] += 1.5
        return images, labels, places

    generator = torch.Generator().manual_seed(0)
    models = {}
    for name, pool, depth in (("mean", "mean", 2), ("cls", "cls", 2), ("no blocks", "mean", 0)):
        torch.manual_seed(0)
        model = VisionTransformer(16, 4, num_classes=3, embed_dim=32, depth=depth, num_heads=2, mlp_dim=64, dropout=0.0,
                                  pool=pool)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(150):
            images, labels, _ = make(64, generator)
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        models[name] = model
    return models, *make(100, generator)


METHODS = {"rollout": lambda model, images, labels: on_patches(attention_rollout(attention_maps(model, images)), model),
           "gradient rollout": lambda *words: on_patches(gradient_rollout(*words), words[0]),
           "evidence": lambda model, images, labels: patch_evidence(model, images)[range(100), :, labels].unflatten(1, (4, 4))}


# By chance one of 16. Training ends differently with each version of torch: with 2.9, gradient rollout and mean pooling
# found 89 % here, and up to 100 % with other seeds. A lesson shows why evidence needs a model whose blocks do not carry the
# message elsewhere.
@pytest.mark.parametrize(("name", "method", "at_least"), [
    ("mean", "rollout", 0.7), ("mean", "gradient rollout", 0.8), ("cls", "rollout", 0.7), ("cls", "gradient rollout", 0.4),
    ("no blocks", "evidence", 0.95)])
def test_a_planted_patch_is_found(planted, name, method, at_least):
    models, images, labels, places = planted
    model = models[name].eval()
    assert (model(images).argmax(dim=1) == labels).float().mean() > 0.95
    relevance = METHODS[method](model, images, labels)
    found = (relevance.flatten(1).argmax(dim=1) == places).float().mean().item()
    assert found > at_least, f"only {found:.0%} of the planted patches"
    shown, deletion, insertion = deletion_and_insertion(model, images, relevance, labels, points=5)
    _, by_chance, _ = deletion_and_insertion(model, images, torch.rand(100, 4, 4), labels, points=5)
    assert area(shown, deletion).mean() < area(shown, by_chance).mean() < area(shown, insertion).mean()


def test_a_planted_patch_is_not_found_by_an_untrained_model(planted):
    _, images, labels, places = planted
    torch.manual_seed(3)
    model = VisionTransformer(16, 4, num_classes=3, embed_dim=32, depth=2, num_heads=2, mlp_dim=64, pool="mean")
    torch.nn.init.normal_(model.head.weight)
    relevance = METHODS["gradient rollout"](model, images, labels)
    assert (relevance.flatten(1).argmax(dim=1) == places).float().mean() < 0.4
