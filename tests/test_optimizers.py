"""Muon and the schedules: equal to PyTorch's Muon, near U V^T, and what each recipe gives to whom."""

import copy
from dataclasses import replace

import pytest
import torch

from vit_helpers import GOOD, VisionTransformer, recipes


@pytest.mark.parametrize("fast", [True, False])
def test_muon_takes_the_steps_of_pytorchs_up_to_rounding_and_goes_on_from_its_state(fast, monkeypatch):
    monkeypatch.setattr(recipes, "has_fast_bf16", lambda _: fast)
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape) / 10) for shape in ((96, 32), (32, 32), (96, 32), (32, 64))]
    theirs = copy.deepcopy(ours)
    muon = recipes.Muon(ours, lr=0.012, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.012, weight_decay=0.1)
    for step in range(20):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) * torch.rand(p.shape[1])
            q.grad = p.grad.clone()
        if step == 10:                                       # as from a checkpoint written with PyTorch's
            muon.load_state_dict(copy.deepcopy(reference.state_dict()))
        muon.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=1e-4 if fast else 2e-3, rtol=0)    # a bfloat16 has 8 bits


@pytest.mark.parametrize(("stem", "filters"), [("linear", 0), ("conv", 7)])
def test_the_good_recipe_gives_muon_the_matrices_of_blocks_and_conv_stem_and_adamw_the_rest(stem, filters):
    model = VisionTransformer(**GOOD.model, stem=stem)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = recipes.make_optimizers(model, GOOD)
    assert type(muon) is recipes.Muon and type(adamw) is torch.optim.AdamW and muon.defaults["weight_decay"]
    groups = [[names[id(p)] for p in group["params"]] for group in (*muon.param_groups, *adamw.param_groups)]
    assert len(groups[0]) == filters + 4 * 4
    assert all(name.startswith(("blocks.", "patch_embed.proj.")) for name in groups[0])
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    for group in adamw.param_groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
    [sgd] = recipes.make_optimizers(model, replace(GOOD, optimizer="sgd"))
    assert type(sgd) is torch.optim.SGD and sgd.defaults["momentum"] == 0.9
