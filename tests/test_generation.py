"""The masked autoencoder and the generator: what is hidden, what counts, and where the velocity leads."""

import pytest
import torch

from vit_helpers import VisionTransformer, heads, normalize, patchify, random_patches
from vit_helpers.heads import DiffusionTransformer, MaskedAutoencoder, generate, load_head, masked_loss
from vit_helpers.pretrained import save_pretrained


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**other):
    torch.manual_seed(0)
    sizes = dict(embed_dim=16, depth=2, num_heads=2, mlp_dim=16, dropout=0.0, num_classes=3)
    return VisionTransformer((8, 12), 4, **{**sizes, "positions": "sincos", "pool": "mean", **other})


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_visible_tokens_come_out_at_their_own_places_and_mask_tokens_elsewhere(pool):
    model = MaskedAutoencoder(small(pool=pool), width=16, depth=0)
    model.norm = model.paint = torch.nn.Identity()
    model.positions.zero_()
    torch.nn.init.normal_(model.mask_token)
    images, visible = torch.randn(3, 3, 8, 12), random_patches(3, 6, 0.5, seeded())
    out, classifier = model(images, visible), small(pool=pool)
    model.encoder.load_state_dict(classifier.state_dict())
    tokens = model.narrow(classifier.forward_features(images, kept=visible)[:, -3:])
    wanted = model.mask_token.repeat(3, 6, 1)
    for b in range(3):
        wanted[b, visible[b]] = tokens[b]
    torch.testing.assert_close(out, wanted)


def test_the_encoder_never_sees_what_is_hidden_and_the_decoder_tells_places_apart():
    model, images, visible = MaskedAutoencoder(small()), torch.randn(1, 3, 8, 12), torch.tensor([[4, 1]])
    painted, changed = model(images, visible), images.clone()
    changed[:, :, :4, :4] = 99                                               # patch 0 is hidden
    assert torch.equal(model(changed, visible), painted)
    changed[:, :, 4:, 4:8] = 0                                               # patch 4 is not
    assert not torch.equal(model(changed, visible), painted)
    assert torch.cdist(painted, painted)[0].fill_diagonal_(1).min() > 0.01


def test_the_loss_ignores_visible_patches():
    images, visible = torch.randn(2, 3, 8, 12), torch.tensor([[0, 5], [3, 1]])
    predicted, hidden = torch.randn(2, 6, 48), torch.ones(2, 6, dtype=torch.bool).scatter(1, visible, False)
    wanted = (predicted - patchify(images, 4))[hidden].square().mean()
    torch.testing.assert_close(masked_loss(predicted, images, visible, 4), wanted)
    assert masked_loss(predicted.to("meta"), images, visible, 4).device.type == "meta"
    with pytest.raises(AssertionError, match=r"\(1, 6, 48\), not \(2, 6, 48\)"):
        masked_loss(predicted[:1], images, visible, 4)                       # else spread without a word


def test_a_generator_begins_by_doing_nothing_and_steers_by_scale_shift_and_gate():
    with pytest.raises(ValueError, match="pool='mean' and stem='linear'"):
        DiffusionTransformer(small(pool="cls"))
    model, classifier = DiffusionTransformer(small(depth=1)), small(depth=1)
    images, time, labels = torch.randn(2, 3, 8, 12), torch.rand(2), torch.tensor([0, 3])
    torch.nn.init.normal_(model.paint.weight)
    begin = model.paint(model.encoder.norm(model.encoder.embed(images)))     # the block's gates are shut
    torch.testing.assert_close(patchify(model(images, time, labels), 4), begin)
    steer = 0.5 * torch.randn(6, 16)
    model.modulation[0][1].bias.data, model.last[1].bias.data = steer.flatten(), steer[:2].flatten()
    classifier.load_state_dict(model.encoder.state_dict())
    x, block = classifier.embed(images), classifier.blocks[0]
    x = x + steer[2] * block.attn(block.norm1(x) * (1 + steer[0]) + steer[1])
    x = x + steer[5] * block.mlp(block.norm2(x) * (1 + steer[3]) + steer[4])
    wanted = model.paint(classifier.norm(x) * (1 + steer[0]) + steer[1])
    torch.testing.assert_close(patchify(model(images, time, labels), 4), wanted)


class Velocity(torch.nn.Module):
    """A generator whose velocity is a function of image, time and a number for each class; 2 is any class."""

    def __init__(self, function):
        super().__init__()
        self.encoder, self.any_class, self.asked, self.function = small(), 2, [], function

    def forward(self, x, time, labels):
        self.asked += labels.tolist()
        numbers = torch.tensor([-0.5, 0.75, 0.0])[labels]
        return self.function(x, time.reshape(-1, 1, 1, 1), numbers.reshape(-1, 1, 1, 1))


def test_the_loss_is_zero_for_the_right_velocity_and_hides_a_share_of_the_classes():
    labels, images = torch.arange(2), torch.tensor([-0.5, 0.75]).reshape(2, 1, 1, 1) * torch.ones(3, 8, 12)
    model = Velocity(lambda x, time, number: (number - x) / (1 - time))      # straight to one point
    assert heads.flow_matching_loss(model, images, labels, seeded(1), without_class=0) < 1e-6
    assert heads.flow_matching_loss(model, images, labels.flip(0), seeded(1), without_class=0) > 0.5
    model.asked = []
    heads.flow_matching_loss(model, torch.zeros(4000, 3, 8, 12), torch.zeros(4000).long(), seeded())
    assert 0.08 < model.asked.count(2) / 4000 < 0.12
    elsewhere = DiffusionTransformer(small()).to("meta")                     # any device, batches stay here
    assert heads.flow_matching_loss(elsewhere, images, labels, seeded()).device.type == "meta"


@pytest.mark.parametrize(("guidance", "way"), [(0, [1, 1]), (1, [0.5, 1.75]), (2, [0, 2.5])])
def test_guidance_exaggerates_the_class_and_heun_is_exact_for_a_line(full, guidance, way):
    model = Velocity(lambda x, time, number: (number + 2 * time).expand_as(x))
    image, pictures = generate(model, [0, 1], guidance, steps=5, generator=seeded(), keep=1)
    noise = 0.35 * torch.randn(2, 3, 8, 12, generator=seeded())
    last = noise + torch.tensor(way).reshape(2, 1, 1, 1)
    torch.testing.assert_close(pictures, torch.stack([noise, last], dim=1))
    torch.testing.assert_close(image, last.clamp(-1, 1))


def test_a_head_is_saved_and_loaded(tmp_path):
    model = DiffusionTransformer(small())
    save_pretrained("generator", model, {"steps": 3}, tmp_path, torch.float16)
    loaded, facts = load_head("generator", tmp_path)
    assert facts["steps"] == 3 and not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="'painter'; choose 'generator' or 'masked'"):
        load_head("painter")


def test_the_shipped_generator_paints_what_is_asked_for(full):
    model, _ = load_head("generator")
    lake, town, forest, works = generate(model, [9, 9, 7, 7, 1, 1, 4, 4], 2.0, 6, seeded()).split(2)
    assert lake.std(dim=(2, 3)).mean() < 0.5 * town.std(dim=(2, 3)).mean()   # water is even, houses are not
    assert forest.mean() < works.mean() - 0.1                                # forests are dark, roofs bright


def test_the_shipped_masked_autoencoder_knows_real_tiles(eurosat):
    model, facts = load_head("masked")
    images = normalize(eurosat.split()[1].subset(100).images)
    visible = random_patches(100, 64, 0.25, seeded())
    loss = masked_loss(model(images, visible), images, visible, 8)
    assert 0.5 < loss / facts["loss"] < 2 and "training tiles of eurosat" in facts["data"]
