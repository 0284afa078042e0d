"""The classifier as one ONNX file that takes raw images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from transferline import seal
from transferline.artifacts import ModelCard
from transferline.data.preprocess import Resize
from transferline.deploy import operators
from transferline.model.classifier import out_of_place
from transferline.sections import REFERENCE


class Deployed(nn.Module):
    """What is deployed: preprocessing, classifier, temperature and softmax (sigmoid, for label sets) as one module.

    Args:
        classifier: float32 [B, 3, S, S] of grey levels 0..255 -> logits float32 [B, C].
        card: gives the size S, the way an image is made square, and the task.
        temperature: divisor of the logits (Guo et al. 2017, arXiv 1706.04599).
    """

    def __init__(self, classifier: nn.Module, card: ModelCard, temperature: float) -> None:
        super().__init__()
        self.resize = Resize(card.input_size, card.resize)
        self.classifier = classifier
        self.temperature = temperature
        self.multilabel = card.task == "multilabel"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, H, W, 3] -> probabilities and logits, both float32 [B, C]."""
        logits = self.classifier(self.resize(images.float()))  # of uint8, TensorRT takes an input, and no arithmetic
        scaled = logits / self.temperature
        return torch.sigmoid(scaled) if self.multilabel else torch.softmax(scaled, dim=1), logits


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from."""

    git_commit: str
    manifest_sha256: str
    mlflow_run_id: str


def metadata(
    card: ModelCard, temperature: float, lineage: Lineage, thresholds: Mapping[str, float] | None = None
) -> dict[str, str]:
    """What the file says of itself, as onnxruntime's `custom_metadata_map` gives it back.

    Args:
        thresholds: of each class, where an image may have several labels.
    """
    assert (card.task == "multilabel") == (thresholds is not None), "label sets, and only they, are cut at thresholds"
    cuts = {"thresholds": json.dumps([thresholds[name] for name in card.classes])} if thresholds else {}
    return {
        "variant": REFERENCE,
        "task": card.task,
        **cuts,
        "classes": json.dumps(card.classes, ensure_ascii=False),
        "backbone": card.backbone,
        "input_size": str(card.input_size),
        "mean": json.dumps(card.mean),
        "std": json.dumps(card.std),
        "resize": card.resize,
        "temperature": repr(temperature),
        "git_commit": lineage.git_commit,
        "manifest_sha256": lineage.manifest_sha256,
        "mlflow_run_id": lineage.mlflow_run_id,
    }


def thresholds(properties: Mapping[str, str]) -> npt.NDArray[np.float64] | None:
    """float64 [C] of what `metadata` wrote; None where an image is in exactly one class."""
    return np.array(json.loads(properties["thresholds"]), np.float64) if "thresholds" in properties else None


def write_onnx(deployed: Deployed, path: Path, opset: int, properties: dict[str, str]) -> None:
    """Write one self-contained file whose batch, height and width are dynamic; equal models are equal bytes.

    Raises:
        onnx.checker.ValidationError: where the graph is not valid ONNX.
    """
    example = torch.zeros(2, 45, 61, 3, dtype=torch.uint8)  # sides that no dynamic dimension could be taken to equal
    program = torch.onnx.export(
        out_of_place(deployed.eval()),
        (example,),
        dynamo=True,
        opset_version=opset,
        external_data=False,
        verbose=False,
        input_names=["images"],
        output_names=["probabilities", "logits"],
        dynamic_shapes={"images": {0: "batch", 1: "height", 2: "width"}},
    )
    assert program is not None, "with dynamo=True a program is returned"
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # torch's stack traces: longer than the graph, and of no use outside it
    program.model.graph.metadata_props.clear()
    operators.cast_first(program.model.graph)
    program.model.metadata_props.update(properties | {seal.KEY: seal.BLANK})
    program.save(path, external_data=False)
    seal.seal(path)
    onnx.checker.check_model(path, full_check=True)
