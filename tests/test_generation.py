"""The masked autoencoder and the generator: what is hidden, what counts, and where the velocity leads."""

import math

import pytest
import torch

from vit_helpers import EncoderBlock, VisionTransformer, normalize, patchify
from vit_helpers.heads import (
    DiffusionTransformer,
    MaskedAutoencoder,
    flow_matching_loss,
    generate,
    load_head,
    masked_loss,
    on_the_way,
    random_visible,
    save_head,
)
from vit_helpers.heads.flow import time_features


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**other):
    return VisionTransformer(**{"img_size": (8, 12), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
                                "mlp_dim": 16, "dropout": 0.0, "positions": "sincos", "pool": "mean", "num_classes": 3,
                                **other})


@pytest.mark.parametrize("build", [MaskedAutoencoder, DiffusionTransformer])
def test_the_encoder_is_the_class_of_lesson_07_unchanged(build):
    classifier, model = small(), build(small())
    assert type(model.encoder) is VisionTransformer and all(type(block) is EncoderBlock for block in model.encoder.blocks)
    model.encoder.load_state_dict(classifier.state_dict(), strict=True)
    images = torch.randn(2, 3, 8, 12)
    assert torch.equal(model.encoder(images), classifier(images))


def test_visible_patches_are_drawn_without_repetition():
    images = torch.zeros(200, 3, 32, 32)
    visible = random_visible(images, (8, 8), generator=seeded())
    assert visible.shape == (200, 16) and visible.dtype == torch.int64
    assert all(len(set(row)) == 16 for row in visible.tolist())
    counts = torch.bincount(visible.flatten(), minlength=64)
    assert counts.min() > 20 and counts.max() < 85                           # each about 50 times
    assert torch.equal(visible, random_visible(images, (8, 8), generator=seeded()))


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, math.nan])
def test_a_share_that_hides_nothing_or_all_is_refused(share):
    with pytest.raises(ValueError, match=f"share={share}.*choose 0.25"):
        random_visible(torch.zeros(1, 3, 8, 8), (2, 2), share)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_shuffle_is_inverted(pool):
    """With a decoder that does nothing, each visible token comes out at its own place, and the mask token elsewhere."""
    model = MaskedAutoencoder(small(pool=pool), width=16, depth=0).eval()
    model.norm = model.paint = torch.nn.Identity()
    model.positions.zero_()
    torch.nn.init.normal_(model.mask_token)
    images = torch.randn(3, 3, 8, 12)
    visible = random_visible(images, (2, 3), 0.5, seeded())
    out = model(images, visible)
    tokens = model.narrow(model.encoder.forward_features(images, keep_tokens=visible)[:, -3:])
    for b in range(3):
        for n in range(6):
            place = (visible[b] == n).nonzero()
            torch.testing.assert_close(out[b, n], tokens[b, place[0, 0]] if len(place) else model.mask_token[0, 0])


def test_the_encoder_never_sees_what_is_hidden():
    model = MaskedAutoencoder(small()).eval()
    images = torch.randn(1, 3, 8, 12)
    visible = torch.tensor([[4, 1]])
    changed = images.clone()
    changed[:, :, :4, :4] = 99                                               # patch 0 is hidden
    assert torch.equal(model(images, visible), model(changed, visible))
    changed[:, :, 4:, 4:8] = 0                                               # patch 4 is not
    assert not torch.equal(model(images, visible), model(changed, visible))


def test_the_loss_ignores_visible_patches():
    images, visible = torch.randn(2, 3, 8, 12), torch.tensor([[0, 5], [3, 1]])
    predicted = torch.randn(2, 6, 48, requires_grad=True)
    loss = masked_loss(predicted, images, visible, 4)
    truth, by_hand = patchify(images, 4), []
    for b in range(2):
        by_hand += [(predicted[b, n] - truth[b, n]).square().mean() for n in range(6) if n not in visible[b]]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    loss.backward()
    hidden = torch.ones(2, 6, dtype=torch.bool).scatter(1, visible, False)
    assert (predicted.grad[~hidden] == 0).all() and (predicted.grad[hidden] != 0).any()


def test_hidden_patches_are_told_apart_by_their_places():
    painted = MaskedAutoencoder(small()).eval()(torch.randn(1, 3, 8, 12), torch.tensor([[4, 1]]))[0, [0, 2, 3, 5]]
    assert torch.cdist(painted, painted).fill_diagonal_(1).min() > 0.01


def test_a_masked_autoencoder_learns():
    torch.manual_seed(0)
    model, random = MaskedAutoencoder(small()), seeded()
    images = torch.rand(16, 3, 1, 1).expand(16, 3, 8, 12).contiguous()       # tiles of one color: the rest follows from a part
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(150):
        visible = random_visible(images, (2, 3), 0.34, random)
        losses.append(masked_loss(model(images, visible), images, visible, 4))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.15 * losses[0]


def test_on_the_way_by_hand():
    image, noise = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 1.0)
    for time, place in ((0.0, 1.0), (0.25, 1.5), (1.0, 3.0)):
        noisy, velocity = on_the_way(image, noise, torch.tensor([time]))
        assert noisy.item() == place and velocity.item() == 2.0


def test_time_features_differ_and_stay_in_range():
    features = time_features(torch.tensor([0.0, 0.001, 0.5, 1.0]), 64)
    assert features.shape == (4, 64) and features.abs().max() <= 1
    assert torch.cdist(features, features).fill_diagonal_(1).min() > 0.1


def test_a_block_begins_by_doing_nothing():
    model = DiffusionTransformer(small())
    velocity = model(torch.randn(2, 3, 8, 12), torch.rand(2), torch.tensor([0, 3]))
    assert velocity.shape == (2, 3, 8, 12) and (velocity == 0).all()
    tokens, seen = model.encoder.embed(torch.ones(1, 3, 8, 12)), []
    model.encoder.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.ones(1, 3, 8, 12), torch.rand(1), torch.tensor([0]))
    assert torch.equal(seen[0], tokens)


def test_with_gates_open_a_block_is_the_encoders_own():
    model = DiffusionTransformer(small()).eval()
    D = 16
    for modulation in model.modulation:                                      # scale 0, shift 0, gate 1
        modulation[1].bias.data[2 * D:3 * D] = modulation[1].bias.data[5 * D:] = 1
    seen, images = [], torch.randn(2, 3, 8, 12)
    model.encoder.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(images, torch.rand(2), torch.tensor([0, 1]))
    torch.testing.assert_close(seen[0], model.encoder.forward_features(images))


def test_steering_is_scale_shift_and_gate_twice_and_scale_and_shift_at_the_end():
    model = DiffusionTransformer(small(depth=1)).eval()
    told = 0.5 * torch.randn(6, 16)
    model.modulation[0][1].bias.data, model.last[1].bias.data = told.flatten(), told[:2].flatten()
    torch.nn.init.normal_(model.paint.weight)
    images, (block,) = torch.randn(2, 3, 8, 12), model.encoder.blocks
    x = model.encoder.embed(images)
    x = x + told[2] * block.attn(block.norm1(x) * (1 + told[0]) + told[1])
    x = x + told[5] * block.mlp(block.norm2(x) * (1 + told[3]) + told[4])
    wanted = model.paint(model.encoder.norm(x) * (1 + told[0]) + told[1])
    torch.testing.assert_close(patchify(model(images, torch.rand(2), torch.tensor([0, 1])), 4), wanted)


def test_a_class_that_does_not_exist_is_refused_in_training_too():
    with pytest.raises(ValueError, match=r"classes from 0 to 2, or 3 for any class, .* not \[0, 7\]"):
        flow_matching_loss(DiffusionTransformer(small()), torch.zeros(2, 3, 8, 12), torch.tensor([0, 7]))


def test_paintings_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"predicted must be \(2, 6, 48\), .* not \(1, 6, 48\)"):
        masked_loss(torch.zeros(1, 6, 48), torch.zeros(2, 3, 8, 12), torch.tensor([[0], [1]]), 4)


def test_a_conv_stem_is_refused():
    with pytest.raises(ValueError, match="stem='conv'"):
        DiffusionTransformer(small(stem="conv"))


def test_a_cls_token_is_refused():
    with pytest.raises(ValueError, match="choose pool='mean'"):
        DiffusionTransformer(small(pool="cls"))


class Solved(torch.nn.Module):
    """The exact velocity where every image of class k is one point: v = (point - x) / (1 - t). Class 2 stands for any."""

    any_class = 2

    def __init__(self):
        super().__init__()
        self.encoder = small(num_classes=2)
        self.points = torch.tensor([-0.5, 0.75, 0.0])
        self.asked = []

    def forward(self, x, time, labels):
        self.asked += labels.tolist()
        return (self.points[labels][:, None, None, None] - x) / (1 - time[:, None, None, None]).clamp(min=1e-3)


@pytest.mark.parametrize("steps", [1, 7])
def test_the_loss_is_zero_for_the_velocity_solved_by_hand(steps):
    images = torch.tensor([-0.5, 0.75])[:, None, None, None].expand(2, 3, 8, 12)
    labels = torch.tensor([0, 1])
    loss = flow_matching_loss(Solved(), images, labels, seeded(steps), without_class=0)
    assert loss < 1e-6
    assert flow_matching_loss(Solved(), images, labels.flip(0), seeded(steps), without_class=0) > 0.5


def test_without_class_hides_that_share_of_the_classes():
    model, images = Solved(), torch.zeros(4000, 3, 8, 12)
    flow_matching_loss(model, images, torch.zeros(4000, dtype=torch.long), seeded(), without_class=0.1)
    assert 0.08 < sum(c == 2 for c in model.asked) / 4000 < 0.12


class Straight(Solved):
    """A velocity that is the same everywhere and always: the class's number; 2, any class, stands still."""

    def forward(self, x, time, labels):
        self.asked += labels.tolist()
        return torch.tensor([-0.25, 0.5, 0.125])[labels][:, None, None, None].expand_as(x)


@pytest.mark.parametrize(("guidance", "way"), [(0.0, [0.125, 0.125]), (1.0, [-0.25, 0.5]), (2.0, [-0.625, 0.875])])
def test_guidance_exaggerates_the_class(guidance, way):
    model = Straight()
    image, pictures = generate(model, [0, 1], guidance, steps=5, generator=seeded(), keep=1)
    noise = 0.35 * torch.randn(2, 3, 8, 12, generator=seeded())
    torch.testing.assert_close(pictures[:, 0], noise)
    torch.testing.assert_close(pictures[:, 1], noise + torch.tensor(way)[:, None, None, None])
    torch.testing.assert_close(image, pictures[:, 1].clamp(-1, 1))


def test_guidance_zero_ignores_the_class():
    model = DiffusionTransformer(small())
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    one, other = (generate(model, [c, c], 0.0, 3, seeded()) for c in (0, 1))
    assert torch.equal(one, other)
    assert not torch.equal(generate(model, [0], 1.0, 3, seeded()), generate(model, [1], 1.0, 3, seeded()))


def test_heun_follows_a_curve_better_than_one_look():
    class Turning(Solved):
        def forward(self, x, time, labels):
            return (2 * time)[:, None, None, None].expand_as(x)              # the integral from 0 to 1 is 1

    noise = 0.35 * torch.randn(1, 3, 8, 12, generator=seeded())
    _, way = generate(Turning(), [0], 1.0, steps=3, generator=seeded(), keep=1)
    torch.testing.assert_close(way[:, -1], noise + 1)                        # exact for a line; one look gives 2/3


def test_pictures_on_the_way_begin_with_noise_and_end_with_the_image():
    image, way = generate(Solved(), [0, 1, 1], 1.0, steps=6, generator=seeded(), keep=3)
    assert image.shape == (3, 3, 8, 12) and way.shape == (3, 4, 3, 8, 12)
    torch.testing.assert_close(way[:, -1].clamp(-1, 1), image)


@pytest.mark.parametrize(("labels", "arguments", "message"), [
    ([4], {}, r"classes from 0 to 2, or 3 for any class, .* not \[4\]"), ([-1], {}, "not"), ([0.5], {}, "not"),
    ([[0]], {}, "one for each image"), ([0], {"guidance": -1}, "guidance=-1"), ([0], {"guidance": math.nan}, "guidance=nan"),
    ([0], {"guidance": math.inf}, "guidance=inf"), ([0], {"steps": 0}, "steps=0")])
def test_what_cannot_be_generated_is_refused(labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(DiffusionTransformer(small()), labels, **arguments)


@pytest.mark.parametrize("name", ["generator", "masked"])
def test_a_head_is_saved_and_loaded(name, tmp_path):
    torch.manual_seed(0)
    model = {"generator": DiffusionTransformer, "masked": MaskedAutoencoder}[name](small())
    save_head(name, model, {"steps": 3}, tmp_path)
    loaded, facts = load_head(name, tmp_path)
    assert facts["steps"] == 3 and not loaded.training
    for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.pt"]


def test_unknown_heads_are_refused():
    with pytest.raises(ValueError, match="'painter'; choose 'generator' or 'masked'"):
        load_head("painter")


def test_the_shipped_generator_paints_what_is_asked_for():
    model, facts = load_head("generator")
    assert facts["seed"] == 0 and "training tiles of eurosat" in facts["data"] and not model.training
    lake, town, forest, works = generate(model, [9] * 3 + [7] * 3 + [1] * 3 + [4] * 3, 2.0, 6, seeded()).split(3)
    assert lake.std(dim=(2, 3)).mean() < 0.5 * town.std(dim=(2, 3)).mean()   # water is even, houses are not
    assert forest.mean() < works.mean() - 0.1                                # forests are dark, roofs are bright


def test_the_shipped_masked_autoencoder_knows_real_tiles(eurosat):
    model, facts = load_head("masked")
    images = normalize(eurosat.split()[1].subset(100).images)
    visible = random_visible(images, (8, 8), generator=seeded())
    with torch.no_grad():
        painted = masked_loss(model(images, visible), images, visible, 8)
    seen = patchify(images, 8).gather(1, visible[..., None].expand(-1, -1, 192)).unflatten(2, (3, 64))
    mean = seen.mean(dim=(1, 3))[:, None, :, None].expand(-1, 64, -1, 64).flatten(2)     # the mean color of what is seen
    assert painted < 0.6 * masked_loss(mean, images, visible, 8)
    assert facts["loss"] / 2 < painted < 2 * facts["loss"]
