"""Every backbone as one ONNX file: what onnxruntime and OpenVINO give for raw images is what torch gives."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.unit.model import menu
from transferline.deploy import export

from . import tensorrt
from .engines import OpenVino

SIZES = (37, 52), (90, 71)  # height, width; smaller and larger than the input
TOLERANCE = 1e-3  # of the largest logit

# Exporters have failed at resnet50's biases, at resnet18 (torch's newer one), at attention in either library's vision
# transformer, at Swin's shifts, and at padding that is not the same on both sides. The latter two are at sides where
# they show: maps that windows of 7 do not divide, and odd ones.
BREAKERS = {"resnet18": 64, "resnet50": 64, "vit_b_16": 32, "vit_small": 64, "swin_t": 72, "efficientnet_lite0": 75}

ANY_TIMM = [pytest.param(f"timm/{name}", marks=pytest.mark.backbones) for name in ("test_convnext", "test_vit4")]


@pytest.mark.parametrize("name", [*menu.rows(), *ANY_TIMM])
def test_the_exported_file_agrees_with_torch_on_raw_images(name: str, tmp_path: Path) -> None:
    """BatchNorm's statistics, norms' affine parameters, biases and tokens are drawn at random: see `menu.liven`."""
    net = menu.make(name, BREAKERS.get(name))
    deployed = export.Deployed(net, net.card, temperature=1.3).eval()
    export.write_onnx(deployed, tmp_path / "model.onnx", 20, {})
    assert tensorrt.refused(tmp_path / "model.onnx") == []
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    openvino = OpenVino(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    for count in (1, 3):
        for height, width in SIZES:
            images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
            with torch.inference_mode():
                expected = [values.numpy() for values in deployed(torch.from_numpy(images))]
            probabilities, logits = session.run(None, {"images": images})
            scale = float(np.abs(expected[1]).max())
            np.testing.assert_allclose(logits, expected[1], rtol=0, atol=TOLERANCE * scale, err_msg=f"{images.shape}")
            np.testing.assert_allclose(openvino(images)[1], logits, rtol=0, atol=TOLERANCE * scale)
            np.testing.assert_allclose(probabilities, softmax(logits / 1.3), rtol=0, atol=1e-5)
            assert count == 1 or np.ptp(logits, axis=0).max() > 0.01 * scale, "images are told apart"


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
