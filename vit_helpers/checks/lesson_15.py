"""Exercises of lesson 15: weights for tubelets, a mask over time, films in a mirror, late time."""

import torch
from torch import nn

from ..model import VisionTransformer
from .base import exercise, take_weights


@exercise(
    cases=lambda: [(torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1), 2), (torch.randn(5, 3, 4, 4), 2),
                   (torch.randn(5, 3, 4, 4), 4), (torch.randn(2, 1, 2, 2), 1)],
    mistakes={
        "the copies are not divided by the number of frames; the token of a still film would be that many "
        "times too large.":
            lambda weight, tubelet: weight.repeat(1, tubelet, 1, 1),
        "the number of frames is taken to be 2; repeat `tubelet` times, and divide by it.":
            lambda weight, tubelet: weight.repeat(1, 2, 1, 1) / 2,
        "each channel is repeated in place (R, R, G, G, B, B); a tubelet has its channels frame by frame "
        "(R, G, B, R, G, B).":
            lambda weight, tubelet: weight.repeat_interleave(tubelet, dim=1) / tubelet,
        "all the weight is on the first frame; give each frame an equal share.":
            lambda weight, tubelet:
                torch.cat([weight, torch.zeros_like(weight).repeat(1, tubelet - 1, 1, 1)], dim=1),
        "this repeats the first axis, the width of the tokens; repeat the second one, the channels.":
            lambda weight, tubelet: weight.repeat(tubelet, 1, 1, 1) / tubelet,
    })
def inflate(weight, tubelet):
    return weight.repeat(1, tubelet, 1, 1) / tubelet


@exercise(
    cases=lambda: [(2, 2), (3, 5), (4, 1)],
    mistakes={
        "the mask goes token by token, so places of one step do not all see each other; compare the steps "
        "of the tokens.":
            lambda steps, places: torch.ones(steps * places, steps * places, dtype=torch.bool).tril(),
        "it is transposed: a row's token attends to a column's, and this lets each step attend to itself "
        "and to the future.":
            lambda steps, places: past_only.reference(steps, places).T,
        "True and False are swapped; True means that the row's token may attend.":
            lambda steps, places: ~past_only.reference(steps, places),
        "each step sees only itself; earlier steps are allowed too: >=.":
            lambda steps, places: step_of(steps, places)[:, None] == step_of(steps, places),
        "the step of a token is its number // places, not // steps.":
            lambda steps, places:
                (torch.arange(steps * places) // steps)[:, None] >= torch.arange(steps * places) // steps,
        "a step does not see itself, and the first one sees nothing at all; earlier or the same is allowed.":
            lambda steps, places: step_of(steps, places)[:, None] > step_of(steps, places),
        "the tokens are taken to be sorted by place; the first `places` tokens all belong to step 0.":
            lambda steps, places:
                (torch.arange(steps * places) % steps)[:, None] >= torch.arange(steps * places) % steps,
    })
def past_only(steps, places):
    step = step_of(steps, places)
    return step[:, None] >= step


def step_of(steps, places):
    return torch.arange(steps).repeat_interleave(places)


MIRRORED = torch.tensor([1, 0, 2, 3, 5, 4, 6, 7, 8])


@exercise(
    cases=lambda: [(torch.arange(8).reshape(4, 1, 1, 1, 2), torch.tensor([0, 2, 4, 8])),
                   (torch.randint(256, (9, 4, 3, 5, 6), dtype=torch.uint8), torch.arange(9))],
    mistakes={
        "the films are mirrored but the labels stay: pans and turns would be taught the wrong way around.":
            lambda films, motions: (films.flip(4), motions),
        "turns are forgotten: in a mirror, a turn to the left is a turn to the right.":
            lambda films, motions: (films.flip(4), torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, 8])[motions]),
        "these are the labels for a film played backward; a mirror changes neither up and "
        "down nor in and out.":
            lambda films, motions: (films.flip(4), torch.tensor([1, 0, 3, 2, 5, 4, 7, 6, 8])[motions]),
        "the films are upside down; left and right are along the last axis.":
            lambda films, motions: (films.flip(3), MIRRORED[motions]),
        "the films run backward; a mirror leaves the order of the frames alone.":
            lambda films, motions: (films.flip(1), MIRRORED[motions]),
        "the labels are replaced one after the other, so those that became 1 go back to 0 at once; look "
        "all of them up in one table.":
            lambda films, motions: (films.flip(4), torch.tensor([0, 0, 2, 3, 4, 4, 6, 7, 8])[motions]),
    })
def mirror(films, motions):
    return films.flip(4), MIRRORED[motions]


class Late(nn.Module):
    """The answer to the last exercise, with room for the mistakes."""

    def __init__(self, encoder, frames, tubelet):
        super().__init__()
        self.encoder, self.tubelet = encoder, tubelet
        self.time = nn.Parameter(torch.zeros(frames // tubelet, encoder.norm.normalized_shape[0]))

    def cut(self, films):                                # (B, T, C, H, W) -> (B, T', tubelet * C, H, W)
        return films.unflatten(1, (-1, self.tubelet)).flatten(2, 3)

    def in_space(self, block, x):                        # (B, T', N, D)
        return block(x.flatten(0, 1)).reshape(x.shape)

    def in_time(self, block, x):                         # (B, T', D)
        return block(x)

    def summary(self, x):                                # (B, T', N, D) -> (B, T', D)
        return x.mean(dim=2) + self.time

    def forward(self, films):
        tubelets = self.cut(films)
        x = self.encoder.embed(tubelets.flatten(0, 1)).unflatten(0, tubelets.shape[:2])
        half = len(self.encoder.blocks) // 2
        for block in self.encoder.blocks[:half]:
            x = self.in_space(block, x)
        x = self.summary(x)
        for block in self.encoder.blocks[half:]:
            x = self.in_time(block, x)
        return self.encoder.head(self.conclude(x))

    def conclude(self, x):                               # (B, T', D) -> (B, D)
        return self.encoder.norm(x).mean(dim=1)


class ColorByColor(Late):
    def cut(self, films):
        return films.unflatten(1, (-1, self.tubelet)).transpose(2, 3).flatten(2, 3)


class FramesFarApart(Late):
    def cut(self, films):
        return films.unflatten(1, (self.tubelet, -1)).transpose(1, 2).flatten(2, 3)


class JointInSpace(Late):
    def in_space(self, block, x):
        return block(x.flatten(1, 2)).reshape(x.shape)


class FilmsMixed(Late):
    def in_time(self, block, x):
        return block(x.transpose(0, 1)).transpose(0, 1)


class Timeless(Late):
    def summary(self, x):
        return x.mean(dim=2)


class WithoutNorm(Late):
    def conclude(self, x):
        return x.mean(dim=1)


class MeanBeforeNorm(Late):
    def conclude(self, x):
        return self.encoder.norm(x.mean(dim=1))


class Alternating(Late):
    def forward(self, films):
        blocks = self.encoder.blocks
        mixed = nn.ModuleList([*blocks[::2], *blocks[1::2]])
        self.encoder.blocks = mixed
        try:
            return super().forward(films)
        finally:
            self.encoder.blocks = blocks


def with_known_weights(answer, frames, tubelet, films):
    """Logits, with weights that are the same each time, and what gets no gradient from them."""
    torch.manual_seed(2)
    encoder = VisionTransformer(tuple(films.shape[3:]), 2, 3 * tubelet, 9, embed_dim=16, mlp_dim=32,
                                depth=2 * tubelet, pool="mean")
    for parameter in encoder.parameters():           # far from their start, so that each part matters
        nn.init.normal_(parameter, std=0.5)
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    weights["time"] = torch.randn(frames // tubelet, 16)
    layer = take_weights(answer(encoder, frames, tubelet), weights).eval()
    logits = layer(films)
    if isinstance(logits, torch.Tensor) and logits.requires_grad:
        logits.square().sum().backward()
        logits = logits.detach()
    silent = [name for name, parameter in layer.named_parameters() if parameter.grad is None]
    return {"logits": logits, "without a gradient": silent}


@exercise(
    use=with_known_weights, tolerance=1e-4,
    cases=lambda: [(4, 2, torch.randn(1, 4, 3, 4, 4)), (9, 3, torch.randn(2, 9, 3, 4, 8))],
    mistakes={
        "the channels of a tubelet are sorted by color; they come frame by frame, all colors of the first "
        "frame first.":
            ColorByColor,
        "a tubelet holds frames that are far apart; it needs consecutive frames: reshape (B, T) to "
        "(B, T', tubelet).":
            FramesFarApart,
        "the first half lets all steps attend to each other; in space, each step is a picture of its own: "
        "(B T', N, D).":
            JointInSpace,
        "in the second half films attend to other films; the middle axis is the one that a block "
        "mixes: (B, T', D).":
            FilmsMixed,
        "space and time alternate; first comes the half of the blocks that works in space, then the other.":
            Alternating,
        "the positions in time are there but not added; without them, the second half cannot tell the order "
        "of the steps.":
            Timeless,
        "the encoder's last norm is left out; the head was made for normalized tokens.":
            WithoutNorm,
        "the mean over the steps comes before the norm; normalize each step's token first.":
            MeanBeforeNorm,
    })
class LateTime(Late):
    pass
