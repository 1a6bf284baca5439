"""The clips of scenes.py, whose motion is known, and the video classifier around the unchanged encoder."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from vit_helpers import GOOD, VisionTransformer, learn, load_tiles, normalize, plotting
from vit_helpers.heads import VideoClassifier
from vit_helpers.scenes import MOTIONS, clips, mosaics

TILES = load_tiles("synthetic").subset(100, seed=0)
FILMS = torch.rand(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def video(frames=8, tubelet=2, attention="joint", seed=0, **options):
    """A small video classifier with weights so large that attention and head have their say, as after training."""
    torch.manual_seed(seed)
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64, "num_classes": 9, **GOOD.model, **options}
    model = VideoClassifier(VisionTransformer(32, 8, in_channels=3 * tubelet, **options), frames, tubelet, attention).eval()
    torch.nn.init.normal_(model.encoder.head.weight, std=0.1)
    torch.nn.init.normal_(model.time)
    for p in model.encoder.blocks.parameters():
        p.data *= 8 if p.ndim == 2 else 1
    return model


def speeds_of_a_half(monkeypatch):
    """All speeds in the middle of their ranges: 2 pixels, 7 degrees or 8.5 % a frame."""
    draw = torch.rand

    def rand(*size, **options):
        values = draw(*size, **options)
        if len(size) == 2 and size[0] == 6:
            values[1] = 0.5
        return values

    monkeypatch.setattr(torch, "rand", rand)


def drawn(n, frames, size, seed):
    """What `clips` draws for a seed: directions, places (row, column) of the middle of the view, the world it flies over."""
    generator = seeded(seed)
    draw, motions = torch.rand(6, n, generator=generator), torch.randint(9, (n,), generator=generator)
    for _ in range(int((motions == 8).sum())):
        torch.randperm(frames - 1, generator=generator)
    world = mosaics(TILES, 1, 16 * size, regions=64, bend=0.05, generator=generator)[0][0]
    return draw, motions, (3 * size + 10 * size * draw[2:4]).T, world


# clips

def test_a_seed_repeats_its_clips_and_another_one_does_not():
    films, motions = clips(TILES, 6, generator=seeded(3))
    again, same = clips(TILES, 6, generator=seeded(3))
    assert torch.equal(films, again) and torch.equal(motions, same)
    assert not torch.equal(films, clips(TILES, 6, generator=seeded(4))[0])
    assert films.dtype == torch.uint8 and films.shape == (6, 8, 3, 32, 32) and motions.dtype == torch.int64


def test_every_motion_is_as_probable_as_any_other():
    motions = torch.cat([clips(TILES, 300, 4, 2, generator=seeded(i))[1] for i in range(3)])
    counts = motions.bincount(minlength=len(MOTIONS))
    assert len(counts) == 9 and counts.min() > 70 and counts.max() < 130             # 100, and three standard deviations


@pytest.mark.parametrize("frames, size", [(8, 32), (5, 17)])
def test_the_middle_frame_is_a_plain_view_whatever_the_motion(frames, size):
    films, motions = clips(TILES, 40, frames, size, generator=seeded(5))
    _, same, places, world = drawn(40, frames, size, seed=5)
    assert torch.equal(motions, same) and len(motions.unique()) > 6
    ruler = np.arange(size) - (size - 1) / 2
    for film, (row, column) in zip(films, places.tolist(), strict=True):
        where = np.meshgrid(row + ruler, column + ruler, indexing="ij")
        view = np.stack([map_coordinates(channel.astype(float), where, order=1) for channel in world.numpy()])
        assert np.abs(film[frames // 2].numpy() - view).max() < 0.6                  # rounding


def test_each_motion_does_what_its_name_says(monkeypatch):
    """Against a second way to write it down: where the camera is, how it is turned, how wide it looks."""
    speeds_of_a_half(monkeypatch)
    films, motions = clips(TILES, 40, generator=seeded(6))
    _, _, places, world = drawn(40, 8, 32, seed=6)
    steps = {"pan left": (0, -2, 0, 1), "pan right": (0, 2, 0, 1), "pan up": (-2, 0, 0, 1), "pan down": (2, 0, 0, 1),
             "turn left": (0, 0, 7, 1), "turn right": (0, 0, -7, 1), "zoom in": (0, 0, 0, 1 / 1.085),
             "zoom out": (0, 0, 0, 1.085)}
    ruler = np.arange(32) - 15.5
    up, right = np.meshgrid(-ruler, ruler, indexing="ij")
    seen = set()
    for film, motion, (row, column) in zip(films, motions.tolist(), places.tolist(), strict=True):
        if MOTIONS[motion] == "shuffled":
            continue
        seen.add(motion)
        down, across, degrees, wider = steps[MOTIONS[motion]]
        for t in (-4, -1, 3):
            point = (right + 1j * up) * wider**t * np.exp(1j * math.radians(degrees * t))    # left is counter-clockwise
            where = [row + down * t - point.imag, column + across * t + point.real]
            view = np.stack([map_coordinates(channel.astype(float), where, order=1) for channel in world.numpy()])
            difference = np.abs(film[t + 4].numpy() - view)
            assert difference.max() < 1.5 and difference.mean() < 0.3, (MOTIONS[motion], t)
    assert len(seen) == 8


def test_a_pan_by_whole_pixels_shifts_the_picture(monkeypatch):
    speeds_of_a_half(monkeypatch)
    films, motions = clips(TILES, 30, generator=seeded(7))
    films = films.int()
    for film, motion in zip(films, motions.tolist(), strict=True):
        now, then = film[:-1], film[1:]
        shifted = {"pan right": (now[..., 2:], then[..., :-2]), "pan left": (now[..., :-2], then[..., 2:]),
                   "pan down": (now[..., 2:, :], then[..., :-2, :]), "pan up": (now[..., :-2, :], then[..., 2:, :])}
        if MOTIONS[motion] in shifted:
            a, b = shifted[MOTIONS[motion]]
            assert (a - b).abs().max() <= 1
    assert {0, 1, 2, 3} <= set(motions.tolist())


def test_a_shuffled_clip_has_the_frames_of_a_steady_one_in_another_order(monkeypatch):
    speeds_of_a_half(monkeypatch)
    films, motions = clips(TILES, 30, generator=seeded(8))
    draw, *_ = drawn(30, 8, 32, seed=8)
    kinds = (draw[0] * 8).long()
    for film, motion, kind in zip(films, motions.tolist(), kinds.tolist(), strict=True):
        if MOTIONS[motion] == "shuffled":
            assert len({frame.numpy().tobytes() for frame in film}) == 8
            if kind < 4:                                         # pans: the frames can be put back by their overlap
                assert sorted(places_along(film, kind)) == list(range(8))
                assert places_along(film, kind) != list(range(8)) and places_along(film, kind)[4] == 4
    assert (motions == 8).sum() >= 2


def places_along(film, kind):
    """For each frame of a shuffled pan of 2 pixels a frame: its number before shuffling, found by overlap with frame 4."""
    film = film.int() if kind < 2 else film.int().transpose(-1, -2)
    found = []
    for frame in film:
        errors = {}
        for t in range(-4, 4):
            shift = 2 * t * (1 if kind % 2 else -1)
            if shift >= 0:
                a, b = film[4][..., shift:], frame[..., :32 - shift]
            else:
                a, b = film[4][..., :shift], frame[..., -shift:]
            errors[t + 4] = (a - b).abs().float().mean().item()
        found.append(min(errors, key=errors.get))
    return found


@pytest.mark.parametrize("one, other", [(0, 1), (2, 3), (4, 5), (6, 7)])
def test_a_motion_played_backward_is_its_opposite(one, other, monkeypatch):
    """An odd number of frames, so that time runs as far to both sides of the middle; speeds and places are the same."""
    draw, made = torch.randint, []
    for motion in (one, other):
        def randint(high, size, generator, motion=motion):
            values = draw(high, size, generator=generator)
            return torch.full_like(values, motion) if high == len(MOTIONS) else values

        monkeypatch.setattr(torch, "randint", randint)
        made.append(clips(TILES, 4, 7, generator=seeded(10)))
    (forth, first), (back, second) = made
    assert first.tolist() == [one] * 4 and second.tolist() == [other] * 4
    assert (forth.int() - back.flip(1).int()).abs().max() <= 1 and not torch.equal(forth, back)


def test_no_black_borders_and_no_frame_beyond_the_world():
    bright = TILES.images.clamp_min(60)
    tiles = type(TILES)(bright, TILES.labels, TILES.classes, TILES.source)
    for frames, size in ((4, 2), (8, 32), (24, 16)):
        assert clips(tiles, 50, frames, size, generator=seeded(9))[0].min() >= 60


@pytest.mark.parametrize("frames, size", [(3, 32), (0, 32), (8, 1)])
def test_clips_too_short_or_too_small_are_refused(frames, size):
    with pytest.raises(ValueError, match=rf"frames={frames}.*size={size}.*choose 8 and 32"):
        clips(TILES, 2, frames, size)


def test_no_tiles_and_fewer_than_no_clips_are_refused():
    with pytest.raises(ValueError, match="no tiles"):
        clips(TILES.select(torch.arange(0)), 2)
    with pytest.raises(ValueError, match="n=-1"):
        clips(TILES, -1)
    assert clips(TILES, 0)[0].shape == (0, 8, 3, 32, 32)


# the head

@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_the_encoder_is_the_courses_own_and_nothing_in_it_changed(attention):
    encoder = VisionTransformer(32, 8, in_channels=6, num_classes=9, **GOOD.model).eval()
    torch.nn.init.normal_(encoder.head.weight)
    images = torch.randn(2, 6, 32, 32)
    weights, logits = {name: value.clone() for name, value in encoder.state_dict().items()}, encoder(images)
    attributes = set(vars(encoder))
    model = VideoClassifier(encoder, attention=attention)
    model(FILMS)
    assert type(model.encoder) is VisionTransformer and set(vars(encoder)) == attributes
    assert weights.keys() == encoder.state_dict().keys() and torch.equal(encoder(images), logits)
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    assert [name for name, _ in model.named_parameters() if not name.startswith("encoder.")] == ["time"]


def test_joint_and_factorised_have_the_same_parameters():
    joint, factorised = video(), video(attention="factorised")
    assert [(name, p.shape) for name, p in joint.named_parameters()] == [
        (name, p.shape) for name, p in factorised.named_parameters()]
    factorised.load_state_dict(joint.state_dict(), strict=True)
    assert joint(FILMS).shape == factorised(FILMS).shape == (2, 9)
    assert joint(FILMS[:0]).shape == factorised(FILMS[:0]).shape == (0, 9)
    assert not torch.allclose(joint(FILMS), factorised(FILMS), atol=1e-3)


@pytest.mark.parametrize("tubelet", [1, 2, 4, 8])
def test_the_tubelet_embedding_is_a_convolution_in_three_dimensions(tubelet):
    model = video(tubelet=tubelet, positions="none")
    torch.nn.init.zeros_(model.time)
    proj = model.encoder.patch_embed.proj
    conv = torch.nn.Conv3d(3, 32, kernel_size=(tubelet, 8, 8), stride=(tubelet, 8, 8))
    conv.weight.data = proj.weight.unflatten(1, (tubelet, 3)).transpose(1, 2)        # (D, tubelet * C, P, P) -> (D, C, ...)
    conv.bias.data = proj.bias
    wanted = conv(FILMS.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)              # (B, D, T', N) -> (B, T', N, D)
    assert model.embed(FILMS).shape == (2, 8 // tubelet, 16, 32)
    assert torch.allclose(model.embed(FILMS), wanted, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_one_step_in_time_is_the_plain_encoder(positions):
    model = video(frames=2, positions=positions)
    torch.nn.init.zeros_(model.time)
    assert torch.allclose(model(FILMS[:, :2]), model.encoder(FILMS[:, :2].flatten(1, 2)), atol=1e-6)


def test_factorised_attention_by_hand():
    """Block 0 knows nothing of other steps, block 1 nothing of other places; written with loops."""
    model = video(attention="factorised")
    tokens = model.embed(FILMS)                                                      # (2, 4, 16, 32)
    space, time = model.encoder.blocks
    x = torch.stack([space(tokens[:, t]) for t in range(4)], dim=1)
    x = torch.stack([time(x[:, :, n]) for n in range(16)], dim=2)
    wanted = model.encoder.head(model.encoder.norm(x).mean(dim=(1, 2)))
    assert torch.allclose(model(FILMS), wanted, atol=1e-5)


def test_every_token_reaches_every_other_after_space_and_time():
    for attention in ("joint", "factorised"):
        model = video(attention=attention)
        films = FILMS.clone().requires_grad_()
        model(films)[0, 0].backward()
        reached = films.grad[0].abs().sum(dim=1) > 0                                 # (8, 32, 32)
        assert reached.all() and not films.grad[1].any()                             # and no other clip


def test_without_positions_in_time_frames_have_no_order():
    model = video(tubelet=1, depth=3)
    torch.nn.init.zeros_(model.time)
    order = torch.tensor([3, 0, 7, 1, 5, 2, 6, 4])
    assert torch.allclose(model(FILMS), model(FILMS[:, order]), atol=1e-5)
    torch.nn.init.normal_(model.time)
    assert not torch.allclose(model(FILMS), model(FILMS[:, order]), atol=1e-3)


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_it_learns_and_every_parameter_takes_part(attention):
    model = video(attention=attention)
    films, motions = clips(TILES, 8, generator=seeded(0))
    films = normalize(films)
    losses = learn(model, lambda model, _: torch.nn.functional.cross_entropy(model(films).float(), motions), steps=30,
                   device="cpu")
    assert losses[-1] < losses[0] - 0.5
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_in_half_precision_on_the_cpu(attention):
    model = video(attention=attention)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(FILMS).float()
    assert torch.allclose(half, model(FILMS), atol=0.1)


@pytest.mark.parametrize("change, message", [
    (dict(frames=1), r"1 frames are shorter than a tubelet of 2; choose 2 or more"),
    (dict(frames=7), r"7 frames cannot be cut into tubelets of 2; choose 6 or 8"),
    (dict(attention="divided"), r"attention='divided' is unknown; choose 'joint' or 'factorised'"),
    (dict(pool="cls"), r"pool='cls'.*choose pool='mean'"),
    (dict(attention="factorised", depth=1), r"depth=1 .*choose depth=2"),
])
def test_models_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        video(**change)


@pytest.mark.parametrize("tubelet", [4, 0])
def test_an_encoder_for_other_channels_is_refused(tubelet):
    with pytest.raises(ValueError, match=rf"in_channels=6 .*tubelet={tubelet}; choose in_channels={12 if tubelet else 3}"):
        VideoClassifier(VisionTransformer(32, 8, in_channels=6, pool="mean"), 8, tubelet)


@pytest.mark.parametrize("films, message", [
    (FILMS[0], r"\(B, T, C, H, W\) = \(B, 8, 3, 32, 32\), not \(8, 3, 32, 32\)"),
    (FILMS[:, :1], r"1 frames are shorter than a tubelet of 2; choose 2 or more"),
    (FILMS[:, :5], r"5 frames cannot be cut into tubelets of 2; choose 4 or 6"),
    (FILMS[:, :4], r"\(B, 8, 3, 32, 32\), not \(2, 4, 3, 32, 32\)"),
    (FILMS.transpose(1, 2), r"\(B, 8, 3, 32, 32\), not \(2, 3, 8, 32, 32\)"),
    (FILMS[..., :16], r"\(B, 8, 3, 32, 32\), not \(2, 8, 3, 32, 16\)"),
])
def test_clips_that_do_not_fit_are_refused(films, message):
    with pytest.raises(ValueError, match=message):
        video()(films)


def test_clips_that_are_not_normalized_are_refused():
    with pytest.raises(TypeError, match="normalize"):
        video()((FILMS * 100 + 100).to(torch.uint8))


# its picture

def test_film_strips_show_each_frame_and_mark_mistakes():
    films = (FILMS[:, :3] * 127 + 128).to(torch.uint8)
    picture = plotting.film_strips(films, ["pan left", "zoom in"], "Films", wrong=[False, True])
    assert len(picture.axes) == 6
    for axis, frame in zip(picture.axes, films.flatten(0, 1), strict=True):
        assert np.array_equal(np.asarray(axis.images[0].get_array()), plotting.as_pixels(frame))
    assert picture.axes[0].get_ylabel() == "pan left" and picture.axes[3].get_ylabel() == "zoom in ✗"
    assert [axis.get_title() for axis in picture.axes[:3]] == ["frame 0", "frame 1", "frame 2"]
    assert "2 film strips of 3 frames each" in picture.alt and "zoom in (wrong)" in picture.alt


def test_shuffled_films_are_never_in_order():
    films, motions = clips(TILES, 400, 4, 16, generator=seeded(2))               # one in six orders of three would be
    assert not (moved_in_order(films) & (motions == 8)).any() and (moved_in_order(films) & (motions < 8)).any()


def moved_in_order(films):
    """Whether each frame resembles its neighbors in time more than those further away: bool (n,)."""
    values = films.float().flatten(2)
    apart = torch.cdist(values, values)                                          # (n, T, T)
    return (apart[:, 0, 1] < apart[:, 0, 2]) & (apart[:, 0, 2] < apart[:, 0, 3]) & (apart[:, 3, 2] < apart[:, 3, 1])
