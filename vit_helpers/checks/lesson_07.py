"""Exercises of lesson 07: an honest start, the work of a block, a forward pass to repair, registers."""

import torch
from torch import nn

from ..model import EncoderBlock, PatchEmbedding, VisionTransformer
from ..patches import patch_grid
from .base import difference, exercise, take_weights


def shares(labels, num_classes):
    return torch.bincount(labels, minlength=num_classes) / len(labels)


@exercise(
    cases=lambda: [(torch.tensor([0, 0, 1, 0]), 2), (torch.arange(24) % 5 % 3, 3)],
    mistakes={
        "these are the shares themselves; a head returns logits, and softmax turns logarithms of shares "
        "back into shares.":
            lambda labels, n: shares(labels, n),
        "these are the logarithms of counts; divide by the number of labels first, so that exp of each "
        "entry is a share.":
            lambda labels, n: torch.bincount(labels, minlength=n).float().log(),
        "the sign is wrong: minus the logarithm is the loss of a class; its logit is the logarithm itself.":
            lambda labels, n: -shares(labels, n).log(),
        "these are logarithms to base 2; softmax and cross-entropy use the natural logarithm, `log()`.":
            lambda labels, n: shares(labels, n).log2(),
        "every class got the same share, as with a head of zeros; count how often each class occurs "
        "in the labels.":
            lambda labels, n: torch.full((n,), 1 / n).log(),
    })
def starting_bias(labels, num_classes):
    return shares(labels, num_classes).log()


@exercise(
    cases=lambda: [(2, 3, 4), (65, 128, 256), (197, 768, 3072), (48, 64, 64)],
    mistakes={
        "the weights are counted once; each of the N tokens goes through them.":
            lambda N, D, M: (4 * D * D + 2 * D * M, 2 * N * N * D),
        "one of the D x D matrices is missing: queries, keys, values and proj make four.":
            lambda N, D, M: (N * (3 * D * D + 2 * D * M), 2 * N * N * D),
        "the MLP has two matrices: D to M, and M back to D.":
            lambda N, D, M: (N * (4 * D * D + D * M), 2 * N * N * D),
        "the scores are there, but not the mixing of the values, which is just as much work.":
            lambda N, D, M: (N * (4 * D * D + 2 * D * M), N * N * D),
        "each score is a sum over the width of the tokens: a factor D is missing in the second number.":
            lambda N, D, M: (N * (4 * D * D + 2 * D * M), 2 * N * N),
    })
def block_work(N, D, M):
    return N * (4 * D * D + 2 * D * M), 2 * N * N * D


def passed(model, images, cls_first=True, norms_inside=False, stirred=False, answer=0, last_norm=True):
    """A forward pass with room for the mistakes."""
    x = model.patch_embed.proj(images)                                               # (B, D, rows, columns)
    x = x.reshape(len(x), -1, x.shape[1]) if stirred else x.flatten(2).transpose(1, 2)
    cls = model.cls_token.expand(len(x), -1, -1)
    x = torch.cat([cls, x] if cls_first else [x, cls], dim=1) + model.pos_embed
    for block in model.blocks:
        x = model.norm(block(x)) if norms_inside else block(x)
    x = model.norm(x) if last_norm and not norms_inside else x
    return model.head(x[:, answer] if answer is not None else x.mean(dim=1))


def tiny_model(img_size, patch_size, in_channels, embed_dim, depth):
    """A model that has "learned" something: all its weights are large enough to matter, the head's too."""
    model = VisionTransformer(img_size, patch_size, in_channels, 3, embed_dim, depth,
                              num_heads=2, mlp_dim=8, dropout=0.0)
    for name, p in model.named_parameters():
        nn.init.normal_(p, mean=float("norm" in name and "weight" in name), std=0.5)
    return model


@exercise(
    cases=lambda: [(tiny_model((4, 4), 2, 1, 4, 2), torch.randn(1, 1, 4, 4)),
                   (tiny_model((6, 4), 2, 3, 8, 2), torch.randn(2, 3, 6, 4))],
    mistakes={
        "the CLS token still comes last, so every token gets the position of another, and a patch "
        "gives the answer.":
            lambda model, images: passed(model, images, cls_first=False),
        "the last norm is still inside the loop, where it rescales the stream after every block.":
            lambda model, images: passed(model, images, norms_inside=True),
        "the reshape still mixes the patches: it cuts up (B, D, rows, columns) as if D came last. Flatten "
        "the grid, then swap N and D.": lambda model, images: passed(model, images, stirred=True),
        "the last norm is gone altogether; it belongs after the loop, before the answer is taken.":
            lambda model, images: passed(model, images, last_norm=False),
        "all three faults are still there.":
            lambda model, images: passed(model, images, cls_first=False, norms_inside=True, stirred=True),
        "two of the three faults are still there: where the CLS token goes, and where the last norm goes.":
            lambda model, images: passed(model, images, cls_first=False, norms_inside=True),
        "two of the three faults are still there: where the CLS token goes, and what the reshape does to "
        "the patches.":
            lambda model, images: passed(model, images, cls_first=False, stirred=True),
        "two of the three faults are still there: where the last norm goes, and what the reshape does to "
        "the patches.":
            lambda model, images: passed(model, images, norms_inside=True, stirred=True),
        "the mean of all tokens gives the answer; this model has a CLS token for it.":
            lambda model, images: passed(model, images, answer=None),
    })
def repaired(model, images):
    return passed(model, images)


class Registers(nn.Module):
    """The answer to the last exercise, with room for the mistakes."""

    def __init__(self, img_size, patch_size, num_classes, embed_dim, depth, num_heads, mlp_dim,
                 num_registers):
        super().__init__()
        rows, columns = patch_grid(img_size, patch_size)
        self.patch_embed = PatchEmbedding(patch_size, 3, embed_dim)
        self.registers = nn.Parameter(torch.randn(1, num_registers, embed_dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, rows * columns, embed_dim) * 0.02)
        self.blocks = nn.ModuleList(EncoderBlock(embed_dim, num_heads, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        self.start()

    def start(self):
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def placed(self, images):                            # (B, 3, height, width) -> (B, R+N, D)
        x = self.patch_embed(images) + self.pos_embed
        return torch.cat([self.registers.expand(len(x), -1, -1), x], dim=1)

    def pooled(self, x):                                 # (B, R+N, D) -> (B, D)
        return x[:, self.registers.shape[1]:].mean(dim=1)

    def forward(self, images):
        x = self.placed(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pooled(self.norm(x)))


class RegistersAnswerToo(Registers):
    def pooled(self, x):
        return x.mean(dim=1)


class OnlyRegistersAnswer(Registers):
    def pooled(self, x):
        return x[:, :self.registers.shape[1]].mean(dim=1)


class WrongOnesLeave(Registers):
    def pooled(self, x):
        return x[:, :-self.registers.shape[1]].mean(dim=1)


class RegistersStayOut(Registers):
    def placed(self, images):
        return self.patch_embed(images) + self.pos_embed

    def pooled(self, x):
        return x.mean(dim=1)


class NoLastNorm(Registers):
    def forward(self, images):
        x = self.placed(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pooled(x))


class OpinionatedHead(Registers):
    def start(self):
        pass


def fresh_and_known(answer, *case):
    """(Logits of the new model, logits with known weights), so that only the computation can differ."""
    *sizes, images = case
    model = answer(*sizes)
    fresh = model(images)
    torch.manual_seed(2)
    known = Registers(*sizes)
    for name, p in known.named_parameters():
        nn.init.normal_(p, mean=float("norm" in name and "weight" in name), std=0.4)
    return fresh, take_weights(model, known.state_dict())(images)


def starts_honestly_and_agrees(result, *case):
    fresh, logits = result
    problem = difference(logits, fresh_and_known(Registers, *case)[1], 1e-5)
    if problem is None and fresh.detach().any():
        largest = fresh.detach().abs().max().item()
        return ("With known weights it is right. But a new model must give logits of 0, and the largest is "
                f"{largest:.3g}.")
    return problem


@exercise(
    use=fresh_and_known,
    judge=starts_honestly_and_agrees,
    cases=lambda: [((4, 8), 4, 2, 4, 1, 1, 4, 2, torch.randn(1, 3, 4, 8)),
                   ((6, 4), 2, 5, 12, 2, 3, 8, 3, torch.randn(2, 3, 6, 4))],
    mistakes={
        "the registers are part of the mean; only the patch tokens answer.": RegistersAnswerToo,
        "only the registers answer; throw them away, and average the patch tokens.":
            OnlyRegistersAnswer,
        "the last R tokens are thrown away, but the registers come first.": WrongOnesLeave,
        "the registers are there as parameters, but no block ever sees them.": RegistersStayOut,
        "the last norm is there but not used.": NoLastNorm,
        "the head starts with random weights; set its weight and bias to zero, so that the first "
        "loss is ln K.":
            OpinionatedHead,
    })
class RegisterTransformer(Registers):
    pass
