"""Away from home: the model in others' hands, others' weights in the model, and (release) the course itself.

Each row of the first tests is something that people tried elsewhere, and the right answer.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import vit_helpers
from vit_helpers import FINETUNE, GOOD, Tiles, VisionTransformer, evaluate, fit, load_weights, recipes

ROOT = Path(__file__).parents[1]
SMALL = dict(img_size=16, num_classes=2, embed_dim=16, depth=2, num_heads=2, mlp_dim=32, dropout=0.0)
TILES = Tiles((torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).byte(),
              torch.arange(40) % 2, ("a", "b"))
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small(**changes):
    torch.manual_seed(0)
    model = VisionTransformer(**{**SMALL, **changes})
    for parameter in model.parameters():                     # zeros would hide what is missing
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def compiled(model):
    with pytest.MonkeyPatch.context() as outside:            # in the tests torch.compile hands back the model
        outside.delenv("TORCHDYNAMO_DISABLE")
        return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, nn.Sequential])
def test_a_wrapped_model_trains_as_the_model_inside_it_and_its_weights_go_back_and_forth(wrap):
    model, wrapped = small(pool="mean"), wrap(small(pool="mean"))
    assert type(wrapped) is not VisionTransformer
    rates = [[(group["lr"], len(group["params"])) for optimizer in recipes.make_optimizers(each, FINETUNE)
              for group in optimizer.param_groups] for each in (model, wrapped)]
    assert rates[0] == rates[1] and len(rates[0]) == 8       # blocks, norms, embedding, head
    assert fit(wrapped, TILES, epochs=1, recipe=FINETUNE).step_loss == fit(
        model, TILES, epochs=1, recipe=FINETUNE).step_loss
    if wrap is nn.Sequential:                                # as Lightning's modules, for example
        with pytest.raises(ValueError, match=r"Sequential cannot leave patches out.*keep_tokens=1\.0"):
            fit(wrapped, TILES, epochs=1, recipe=GOOD)
    else:
        fit(wrapped, TILES, epochs=1, recipe=GOOD)
        torch.testing.assert_close(load_weights(model, wrapped.state_dict())(IMAGES), wrapped.eval()(IMAGES))
        torch.testing.assert_close(load_weights(wrapped, small(pool="mean").state_dict())(IMAGES),
                                   small(pool="mean")(IMAGES))


HUGGING_FACE = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
                "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm1": "layernorm_before",
                "norm2": "layernorm_after", "attn.proj": "attention.output.dense", "norm.": "layernorm.",
                "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense", "blocks": "encoder.layer"}


def hugging_face(model):
    """Our weights under the names that transformers gives to its ViTForImageClassification."""
    state = {}
    for name, value in model.state_dict().items():
        for ours, theirs in HUGGING_FACE.items():
            name = name.replace(ours, theirs)
        if "attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state["vit." + name.replace("attn.qkv", f"attention.attention.{part}")] = third
        else:
            state[name.replace("head", "classifier") if "head" in name else f"vit.{name}"] = value
    return state


def test_hugging_faces_weights_load_by_their_names():
    model, state = small(), hugging_face(small())
    assert "vit.encoder.layer.1.attention.attention.key.bias" in state and "classifier.weight" in state
    found = vit_helpers.from_huggingface(state)
    torch.testing.assert_close(found, dict(model.state_dict()), atol=0, rtol=0)
    state = {name.removeprefix("vit."): value for name, value in state.items() if "classifier" not in name}
    assert found.keys() - vit_helpers.from_huggingface(state).keys() == {"head.weight", "head.bias"}
    with pytest.raises(ValueError, match=r"names: pooler\.dense\.weight\n.*leave its entries out"):
        vit_helpers.from_huggingface({**state, "pooler.dense.weight": torch.zeros(1)})


@pytest.mark.parametrize(("weights", "words"), [
    (lambda: timm.create_model("deit_tiny_distilled_patch16_224", depth=1).state_dict(), "lesson 12"),
    (lambda: timm.create_model("vit_small_patch14_reg4_dinov2", img_size=28, depth=1).state_dict(),
     "registers.*exercise 7.4.*LayerScale.*lesson 06"),
    (lambda: small(img_size=32).state_dict(), r"another image size: .*model\.set_img_size"),
    (lambda: {**small().state_dict(), "extra": torch.zeros(1)}, 'Unexpected key.*"extra"')],
    ids=["distilled", "registers and LayerScale", "another size", "one more"])
def test_weights_that_do_not_fit_say_what_they_are_and_leave_the_model_as_it_was(weights, words):
    model, others = small(), {name: value + 1 for name, value in weights().items()}
    with pytest.raises(RuntimeError, match=f"(?s){words}"):
        load_weights(model, others)
    torch.testing.assert_close(model.state_dict(), small().state_dict(), atol=0, rtol=0)


def test_weights_of_ones_own_are_taken_by_their_path_and_so_is_the_model_in_a_checkpoint(tmp_path):
    fit(trained := small(), TILES, epochs=1, checkpoint=tmp_path / "run.pt")
    vit_helpers.pretrained.save_pretrained("mine", trained, {"classes": ["cat", "dog"]}, tmp_path)
    wanted, path = evaluate(trained, TILES), tmp_path / "mine.pt"
    for model in (path, str(path), load_weights(small(), tmp_path / "run.pt")):
        assert torch.equal(evaluate(model, TILES).logits, wanted.logits)
    found = vit_helpers.predict(TILES.images[3], path)
    assert found.classes == ("cat", "dog") and found.usual and len(str(found).split(", ")) == 2
    torch.testing.assert_close(found.probabilities, wanted.probabilities[3])
    assert vit_helpers.predict(Image.new("RGB", (99, 50)), path).image.shape == (3, 16, 16)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*mine\.json; .*load_weights\(model, path\)"):
        vit_helpers.predict(TILES.images[3], path)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("img_size", [16, 32])
def test_a_model_that_was_built_without_numbers_gets_all_of_them(assign, img_size):
    source = small(positions="sincos").set_img_size(img_size)
    with torch.device("meta"):
        model = VisionTransformer(**SMALL, positions="sincos").eval().set_img_size(img_size)
    model.to_empty(device="cpu").load_state_dict(source.state_dict(), assign=assign)
    images = torch.randn(2, 3, img_size, img_size)
    assert torch.equal(model(images), source(images))


def test_a_frozen_table_stays_frozen_and_a_formula_comes_back_exactly():
    model = small()
    model.pos_embed.requires_grad_(False)
    assert not model.set_img_size(32).pos_embed.requires_grad and model.pos_embed.shape == (1, 17, 16)
    model = small(positions="sincos")
    assert torch.equal(model.set_img_size(32).set_img_size(16)(IMAGES), small(positions="sincos")(IMAGES))


def test_explanations_go_with_any_head_and_say_which_models_they_need():
    model = small(pool="mean")
    model.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5))
    assert vit_helpers.gradient_rollout(model, IMAGES).shape == (2, 4, 4)
    others = timm.models.VisionTransformer(16, 8, embed_dim=16, depth=1, num_heads=2)
    for explain in (vit_helpers.attention_maps, vit_helpers.gradient_rollout, vit_helpers.patch_evidence):
        with pytest.raises(TypeError, match=r"of vit_helpers, not .*timm\.models.*lesson 12"):
            explain(others, IMAGES)


TEACHING = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")


def documented(start, option, place):
    """TEACHING.md's one command that starts like this, as a list of words; what it makes goes to `place`."""
    (command,) = re.findall(rf"`({re.escape(start)}[^`]*)`", TEACHING)
    words = shlex.split(command)
    words[words.index(option) + 1] = str(place)
    return words


@pytest.mark.release
def test_student_version_web_pages_and_slides_are_made_as_teaching_says(tmp_path):
    for kind in ("notebook", "html", "slides"):
        words = documented(f"jupyter nbconvert --to {kind} ", "--output-dir", tmp_path)
        done = subprocess.run([sys.executable, "-m", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr or kind == "slides", done.stderr     # reveal.js drops alt text
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        whole, theirs = (json.loads(file.read_text("utf-8")) for file in (path, tmp_path / path.name))
        kept = [cell for cell in whole["cells"] if "solution" not in cell["metadata"].get("tags", [])]
        assert theirs == {**whole, "cells": kept}
        assert (tmp_path / f"{path.stem}.slides.html").exists() and (tmp_path / f"{path.stem}.html").exists()


@pytest.mark.release
def test_a_zip_of_the_course_runs_in_another_place_without_a_network(tmp_path):
    file, course = tmp_path / "course.zip", tmp_path / "vision-transformers"
    subprocess.run(documented("git archive ", "-o", file), cwd=ROOT, check=True)
    assert file.stat().st_size < 60e6
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    assert "-r ../requirements.txt" in (course / ".binder" / "requirements.txt").read_text(encoding="utf-8")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    env = {**os.environ, **nowhere, "PYTHONPATH": str(course)}
    code = ("import nbclient, nbformat; n = nbformat.read('notebooks/02_patches.ipynb', 4); "
            "n.cells.append(nbformat.v4.new_code_cell('print(vit_helpers.__file__)')); "
            "nbclient.NotebookClient(n, kernel_name='python3').execute(); print(n.cells[-1].outputs[0].text)")
    done = subprocess.run([sys.executable, "-c", code], cwd=course, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(course / "vit_helpers" / "__init__.py"), done.stderr
