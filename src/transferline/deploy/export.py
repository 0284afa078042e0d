"""The classifier as one ONNX file that takes raw images, kept only if it does what evaluate reported."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch
from rich.console import Console
from torch import Tensor, nn

from transferline import seal
from transferline.artifacts import ModelCard, atomic, write_json
from transferline.data.preprocess import Resize
from transferline.deploy import parity


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
        logits = self.classifier(self.resize(images))
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


def write_onnx(deployed: Deployed, path: Path, opset: int, properties: dict[str, str]) -> None:
    """Write one self-contained file whose batch, height and width are dynamic; equal models are equal bytes.

    Raises:
        onnx.checker.ValidationError: where the graph is not valid ONNX.
    """
    example = torch.zeros(2, 45, 61, 3, dtype=torch.uint8)  # sides that no dynamic dimension could be taken to equal
    program = torch.onnx.export(
        deployed.eval(),
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
    program.model.metadata_props.update(properties | {seal.KEY: seal.BLANK})
    program.save(path, external_data=False)
    seal.seal(path)
    onnx.checker.check_model(path, full_check=True)


def verified(
    deployed: Deployed, properties: dict[str, str], reference: parity.Reference, path: Path, report: Path
) -> parity.Parity:
    """Export, replay the test split through the file, and keep it as `path` only where it agrees with evaluate.

    Args:
        deployed: what is exported.
        properties: what the file says of itself, from `metadata`.
        reference: evaluate's predictions, and the images they are of.
        path: of the ONNX file; nothing is left there otherwise.
        report: where the verdict is written as JSON, either way.

    Raises:
        UserError: where the exported model disagrees with evaluate, with the worst images.
    """
    path.unlink(missing_ok=True)
    with atomic(path) as partial:
        with Console().status("translating the network into an ONNX graph"):
            write_onnx(deployed, partial, reference.options.opset, properties)
        verdict = parity.verify(partial, reference)
        write_json(report, asdict(verdict))
        verdict.require()
    return verdict
