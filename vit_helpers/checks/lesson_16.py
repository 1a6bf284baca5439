"""Exercises of lesson 16: tokens put back, a loss for flow matching, a steered block, painting."""

import contextlib

import torch
from torch import nn

from ..heads import DiffusionTransformer, flow_point
from ..model import EncoderBlock, VisionTransformer
from .base import exercise


def by_gather(tokens, visible, mask_token, num_patches):
    everything = set(range(num_patches))
    hidden = torch.stack([torch.tensor(sorted(everything - set(row))) for row in visible.tolist()])
    x = torch.cat([tokens, mask_token.expand(*hidden.shape, -1)], dim=1)
    return x.gather(1, torch.cat([visible, hidden], dim=1)[..., None].expand_as(x))


def with_gradients(answer, tokens, visible, mask_token, num_patches):
    """All places, and the gradients that reach the tokens and the mask token."""
    learned = {"tokens": tokens.clone().requires_grad_(), "mask_token": mask_token.clone().requires_grad_()}
    everywhere = answer(learned["tokens"], visible, learned["mask_token"], num_patches)
    if isinstance(everywhere, torch.Tensor) and everywhere.requires_grad:
        # Not allowed where scatter had an index of one channel only: then the places are wrong too.
        with contextlib.suppress(RuntimeError):
            everywhere.square().sum().backward()
        everywhere = everywhere.detach()
    gradients = {f"gradient of {name}": torch.zeros_like(p) if p.grad is None else p.grad
                 for name, p in learned.items()}
    return {"all places": everywhere, **gradients}


@exercise(
    use=with_gradients,
    cases=lambda: [(torch.tensor([[[7.0], [9.0]]]), torch.tensor([[3, 0]]), torch.tensor([-1.0]), 5),
                   # Rounded: a number of a token may well be zero.
                   (torch.randn(3, 4, 6).round(), torch.rand(3, 10).argsort(dim=1)[:, :4], torch.randn(6),
                    10)],
    mistakes={
        "the tokens are put at the first places, in the order in which they came; `visible` says "
        "where each belongs.":
            lambda tokens, visible, mask, n:
                put_back.reference(tokens, torch.arange(visible.shape[1]).expand_as(visible), mask, n),
        "the places are sorted but the tokens are not, so the tokens are shuffled; token i belongs "
        "to place visible[i].":
            lambda tokens, visible, mask, n: put_back.reference(tokens, visible.sort(dim=1).values, mask, n),
        "the places of the first image are used for all; each image hides other patches.":
            lambda tokens, visible, mask, n:
                put_back.reference(tokens, visible[:1].expand_as(visible), mask, n),
        "the table of places is used in the wrong direction; `gather` takes from a place, `scatter` "
        "puts into it.": by_gather,
        "the empty places are zero; put the mask token there, which the decoder can learn.":
            lambda tokens, visible, mask, n: put_back.reference(tokens, visible, torch.zeros_like(mask), n),
        "no gradient reaches the tokens or the mask token, so nothing could learn; leave out detach(), "
        ".data and torch.no_grad().":
            lambda tokens, visible, mask, n: put_back.reference(tokens.detach(), visible, mask.detach(), n),
        "only the first number of each token is put; the index has to be as large as the tokens: "
        "visible[..., None].expand_as(tokens).":
            lambda tokens, visible, mask, n:
                mask.expand(len(tokens), n, -1).scatter(1, visible[..., None], tokens),
        "each image gets the tokens of all images, since x[:, visible] takes every image each time; pair "
        "them: x[torch.arange(B)[:, None], visible].":
            lambda tokens, visible, mask, n:
                put_back.reference(tokens.flatten(0, 1).expand(len(tokens), -1, -1),
                                   visible.flatten().expand(len(tokens), -1), mask, n),
    })
def put_back(tokens, visible, mask_token, num_patches):
    B, _, W = tokens.shape
    return mask_token.expand(B, num_patches, W).scatter(1, visible[..., None].expand_as(tokens), tokens)


class Toy(nn.Module):
    """A stand-in for a painter: its velocity is gain * (noisy + time + class)."""

    def __init__(self, any_class):
        super().__init__()
        self.any_class, self.gain = any_class, nn.Parameter(torch.ones(()))

    def forward(self, noisy, time, labels):
        for name, value in (("times", time), ("labels", labels)):
            if value.shape != (len(noisy),):
                raise ValueError(f"the model takes {name} (B,) = ({len(noisy)},), not {tuple(value.shape)}")
        return self.gain * (noisy + (time + labels)[:, None, None, None])


def loss_of(model, noisy, time, labels, hidden, wanted):
    return (model(noisy, time, labels.where(~hidden, model.any_class)) - wanted).square().mean()


def with_gradient(answer, model, *rest):
    """The loss, and the gradient that reaches the model."""
    loss = answer(model, *rest)
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        loss.sum().backward()
        loss = loss.detach()
    gain = model.gain
    return {"loss": loss, "gradient of the model": torch.zeros_like(gain) if gain.grad is None else gain.grad}


@exercise(
    use=with_gradient,
    cases=lambda: [(Toy(4), torch.full((1, 1, 1, 1), 3.0), torch.tensor([2]), torch.full((1, 1, 1, 1), 1.0),
                    torch.tensor([0.25]), torch.tensor([True])),
                   (Toy(7), torch.randn(3, 2, 4, 5), torch.tensor([3, 0, 1]), torch.randn(3, 2, 4, 5),
                    torch.rand(3), torch.tensor([False, True, False]))],
    mistakes={
        "the line runs from the image to the noise, but the velocity points to the image; time 0 is noise, "
        "time 1 the image.":
            lambda model, images, labels, noise, time, hidden:
                loss_of(model, flow_point(noise, images, time)[0], time, labels, hidden, images - noise),
        "the velocity points from the image to the noise; painting goes the other way.":
            lambda model, images, labels, noise, time, hidden:
                loss_of(model, flow_point(images, noise, time)[0], time, labels, hidden, noise - images),
        "line and velocity both lead from image to noise; they fit together, but `generate` starts at time "
        "0 with noise.":
            lambda model, images, labels, noise, time, hidden:
                loss_of(model, flow_point(noise, images, time)[0], time, labels, hidden, noise - images),
        "the class is never hidden, so the model never learns what to do with \"any class\", which "
        "guidance needs.":
            lambda model, images, labels, noise, time, hidden:
                loss_of(model, flow_point(images, noise, time)[0], time, labels, torch.zeros_like(hidden),
                        images - noise),
        "the answer of the model carries no gradient; leave out torch.no_grad(), detach() and .item().":
            lambda *case: flow_loss.reference(*case).detach(),
        "\"any class\" is not always number 4; ask model.any_class.":
            lambda model, images, labels, noise, time, hidden:
                loss_of(model, flow_point(images, noise, time)[0], time, labels.where(~hidden, 4),
                        torch.zeros_like(hidden), images - noise),
        "the answer is compared with the image; it is a velocity, so compare it with image minus noise.":
            lambda model, images, labels, noise, time, hidden:
                loss_of(model, flow_point(images, noise, time)[0], time, labels, hidden, images),
        "the classes that should stay are hidden, and the hidden ones stay; where() keeps labels where its "
        "condition is True, so it needs ~hidden.":
            lambda model, images, labels, noise, time, hidden:
                flow_loss.reference(model, images, labels, noise, time, ~hidden),
    })
def flow_loss(model, images, labels, noise, time, hidden):
    noisy, velocity = flow_point(images, noise, time)
    return loss_of(model, noisy, time, labels, hidden, velocity)


def through(block, x, numbers, one=1, norm=True, order=(0, 1, 2), close_all=False, side_by_side=False,
            by_gate=lambda gate: gate, onto=lambda x, given: x):
    """The block with six steering vectors, and with room for the mistakes."""
    parts = numbers[:, None].chunk(6, dim=2)                             # six times (B, 1, D)
    start = x
    for i, (layer, normalize) in enumerate(((block.attn, block.norm1), (block.mlp, block.norm2))):
        scale, shift, gate = (parts[3 * i + j] for j in order)
        stream = start if side_by_side else x
        given = (normalize(stream) if norm else stream) * (one + scale) + shift
        added = layer(given)
        x = gate * (x + added) if close_all else onto(x, given) + by_gate(gate) * added
    return x


def trained_block(*sizes):
    """A block whose two norms differ, as after training."""
    block = EncoderBlock(*sizes)
    for norm in (block.norm1, block.norm2):
        torch.nn.init.normal_(norm.weight)
    return block


@exercise(
    cases=lambda: [(EncoderBlock(4, 2, 8), torch.randn(1, 2, 4), torch.zeros(1, 24)),
                   (trained_block(8, 2, 12), torch.randn(3, 5, 8), torch.randn(3, 48))],
    mistakes={
        "it scales by `scale` instead of 1 + scale; with zeros, as at the start, attention would get no "
        "token at all.":
            lambda block, x, numbers: through(block, x, numbers, one=0),
        "the gate is on the whole sum, so a closed gate wipes out the token; gate only what the layer adds.":
            lambda block, x, numbers: through(block, x, numbers, close_all=True),
        "the gates are not used; multiply what attention and the MLP give by them.":
            lambda block, x, numbers: through(block, x, numbers, by_gate=torch.ones_like),
        "only scale gets the 1; a gate of zero must shut.":
            lambda block, x, numbers: through(block, x, numbers, by_gate=lambda gate: 1 + gate),
        "scale and shift are swapped; the six come as scale, shift, gate, and the same again.":
            lambda block, x, numbers: through(block, x, numbers, order=(1, 0, 2)),
        "the block's norms are not used; scale and shift what the norm gives.":
            lambda block, x, numbers: through(block, x, numbers, norm=False),
        "the MLP gets the tokens as they were before attention; go on with the new x.":
            lambda block, x, numbers: through(block, x, numbers, side_by_side=True),
        "the layer's output is added to the steered tokens; only the layer sees these, the sum starts "
        "from x.":
            lambda block, x, numbers: through(block, x, numbers, onto=lambda x, given: given),
        "the MLP gets attention's scale, shift and gate; its own are the last three of the six.":
            lambda block, x, numbers: steered.reference(
                block, x, numbers[:, :numbers.shape[1] // 2].repeat(1, 2)),
    })
def steered(block, x, numbers):
    return through(block, x, numbers)


class Grows(nn.Module):
    """A painter to follow by hand: class c grows with velocity c * x, "any class" stands still."""

    any_class = 9

    def forward(self, x, time, labels):
        return labels.where(labels != self.any_class, 0)[:, None, None, None] * x


def small_painter():
    encoder = VisionTransformer((4, 6), 2, num_classes=5, embed_dim=16, depth=1, mlp_dim=16, pool="mean")
    model = DiffusionTransformer(encoder)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def follow(model, noise, labels, guidance, steps, looks=2, extra=0, second=1, reach=1, backward=False,
           least=-1.0, mix=lambda first, ahead: (first + ahead) / 2):
    """From noise to image, with room for the mistakes."""
    def velocity(x, time):
        times = torch.full((len(x),), float(1 - time if backward else time))
        free = model(x, times, torch.full_like(labels, model.any_class))
        return free + (guidance + extra) * (model(x, times, labels) - free)

    x = noise
    with torch.no_grad():
        for i in range(steps):
            first = velocity(x, i / steps)
            ahead = velocity(x + reach * first / steps, (i + second) / steps) if looks == 2 else first
            x = x + mix(first, ahead) / steps
    return x.clamp(least, -least)


@exercise(
    tolerance=1e-4,
    cases=lambda: [(Grows(), torch.full((1, 1, 1, 1), 0.1), torch.tensor([1]), 2.0, 1),
                   (small_painter(), 0.35 * torch.randn(2, 3, 4, 6), torch.tensor([3, 0]), 1.5, 3)],
    mistakes={
        "each step has one look only (Euler); look again where it leads, and take the mean of both.":
            lambda *case: follow(*case, looks=1),
        "guidance is too strong by one; it is v_any + guidance * (v_class - v_any), neither starting from "
        "v_class nor with 1 + guidance.":
            lambda *case: follow(*case, extra=1),
        "both velocities are added; take their mean.":
            lambda *case: follow(*case, mix=lambda first, ahead: first + ahead),
        "only the second velocity is followed; take the mean of both.":
            lambda *case: follow(*case, mix=lambda first, ahead: ahead),
        "the second look uses the time of the first; it happens at the end of the step.":
            lambda *case: follow(*case, second=0),
        "time runs from 1 to 0; the noise is at time 0.": lambda *case: follow(*case, backward=True),
        "some pixels are outside -1..1; clamp them at the end.":
            lambda *case: follow(*case, least=-torch.inf),
        "each step is as long as the whole way; multiply the mean velocity by the length of a step, "
        "1 / steps.":
            lambda *case: follow(*case, mix=lambda first, ahead: (first + ahead) / 2 * case[-1]),
        "the second look is a whole unit of time ahead; a step leads to x + first / steps.":
            lambda *case: follow(*case, reach=case[-1]),
    })
def paint(model, noise, labels, guidance, steps):
    return follow(model, noise, labels, guidance, steps)
