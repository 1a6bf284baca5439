"""A learner's model is an ordinary module: PyTorch's compilers, exporters and tracers take it (release)."""

import copy

import numpy as np
import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor

from vit_helpers import VisionTransformer

pytestmark = [pytest.mark.release, pytest.mark.filterwarnings("ignore")]
KINDS = {"cls, learned": {"pool": "cls", "positions": "learned"},
         "mean, sincos": {"pool": "mean", "positions": "sincos"}, "conv": {"stem": "conv"}}
IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def model(request):
    torch.manual_seed(0)
    model = VisionTransformer(32, embed_dim=32, depth=2, num_heads=2, mlp_dim=32, **request.param).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def close(found, model, images=IMAGES):
    torch.testing.assert_close(torch.as_tensor(found).detach(), model(images).detach(), atol=2e-5, rtol=1e-4)


@torch._dynamo.config.patch(disable=False)                   # the other tests do without
def test_compile(model, monkeypatch):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 3, 2):
        close(compiled(IMAGES[:n]), model, IMAGES[:n])
    kept = torch.tensor([[0, 3, 7]]).expand(5, -1)
    torch.testing.assert_close(compiled(IMAGES, kept), model(IMAGES, kept), atol=2e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_with_any_batch_size(model, dynamo, tmp_path):
    runtime, path = pytest.importorskip("onnxruntime"), str(tmp_path / "model.onnx")
    batch = {"dynamic_shapes": ({0: "batch"},)} if dynamo else {"dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(model, (IMAGES[:3],), path, input_names=["images"], dynamo=dynamo, **batch)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": IMAGES.numpy()})[0]
    np.testing.assert_allclose(found, model(IMAGES).detach(), atol=1e-4)


def test_symbolic_trace_and_feature_extractor(model):
    close(torch.fx.symbolic_trace(model)(IMAGES), model)
    found = create_feature_extractor(model, {"blocks.0.mlp.drop_1": "first", "norm": "tokens"})(IMAGES)
    torch.testing.assert_close(found["tokens"], model.forward_features(IMAGES), atol=2e-5, rtol=1e-4)


def test_deep_copies_hooks_and_functional_calls(model):
    twin, seen = copy.deepcopy(model), []
    twin.blocks[1].attn.register_forward_hook(lambda *call: seen.append(call[2].shape))
    close(twin(IMAGES), model)
    assert seen == [torch.Size([5, 16 + (model.pool == "cls"), 32])]

    def call(weights):
        return torch.func.functional_call(model, weights, (IMAGES,))

    weights = dict(model.named_parameters())
    close(call(weights), model)
    gradient = torch.func.grad(lambda weights: call(weights).square().sum())(weights)
    assert gradient["head.weight"].abs().sum() > 0
    close(torch.func.vmap(lambda image: model(image[None])[0])(IMAGES), model)
