"""Trained weights as one ONNX file, which onnxruntime runs without PyTorch, with what its user must know."""

import copy
import json
import logging
from importlib.util import find_spec

import torch
from torch import nn

from .data import CLASSES
from .runtime import atomic_write


def export_onnx(model, file, facts, int8=False):
    """Write a ViT as ONNX: "images" float32 (B, C, H, W) of any B, normalized -> "probabilities" (B, K).

    facts: see `pretrained_facts`. Classes, size and normalization are in the file's metadata, each as JSON:
    pixels become (pixels / white - mean) / std. int8: matrices in eight bits, for a third of the size. Raises
    ImportError where a package is missing.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime")[:2 + int8] if not find_spec(name)]:
        raise ImportError(f"ONNX files need {' and '.join(missing)}; run: pip install {' '.join(missing)}")
    answer = nn.Sequential(copy.deepcopy(model).cpu(), nn.Softmax(dim=1)).eval().requires_grad_(False)
    for part in answer[0].head.parameters():
        part /= facts.get("temperature", 1)
    program = torch.onnx.export(
        answer, (torch.zeros(2, model.config["in_channels"], *model.img_size),), dynamo=True, verbose=False,
        dynamic_shapes=({0: "batch"},), input_names=["images"], output_names=["probabilities"])
    known = {"classes": facts.get("classes", CLASSES), "size": model.img_size, "mean": 0.5, "std": 0.5,
             "white": facts.get("white") or 255}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in known.items()})
    with atomic_write(file) as temporary:
        program.save(temporary, external_data=False)
        if int8:
            from onnxruntime.quantization import quantize_dynamic  # here, since few need it

            logging.disable(logging.WARNING)             # it advises a step that changes nothing here
            try:
                quantize_dynamic(temporary, temporary)
            finally:
                logging.disable(logging.NOTSET)
