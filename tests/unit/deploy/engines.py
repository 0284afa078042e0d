"""What OpenVINO gives for raw images."""

from pathlib import Path

import numpy as np
import openvino


class OpenVino:
    """An exported file on the CPU, with all of float32: by default it computes in bfloat16 where the processor can."""

    def __init__(self, path: Path) -> None:
        wanted = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        self._compiled = openvino.Core().compile_model(path, "CPU", wanted)

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Probabilities and logits float32 [B, C] of uint8 [B, H, W, 3]."""
        found = self._compiled({"images": images})
        return [found[index] for index in range(len(self._compiled.outputs))]
