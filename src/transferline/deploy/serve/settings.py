"""What a service takes, and how much of it at once."""

import math
from typing import Self

from pydantic import Field, model_validator

from transferline import cores
from transferline.policy import Section

_GPU_BATCH = 32
_CPU_RUNS = 8  # each has its own activations in memory

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's names of those that are tried


class Settings(Section):
    """Limits of the service; what is over one of them is refused, and costs no more than its reading up to there."""

    max_batch: int | None = Field(
        None, ge=1, description="images of one size in a batch; null: 32 on a GPU, 1 on a CPU of up to 8 cores"
    )
    runs: int | None = Field(
        None, ge=1, description="batches that run at once; null: on a CPU as many as cores, up to 8, else 1"
    )
    max_wait_ms: float = Field(
        5.0, ge=0, description="longest wait of an image for others that are being decoded, while the model is idle"
    )
    queue: int = Field(
        256, ge=1, description="images that have arrived and are not yet answered; more are answered 503"
    )
    max_bytes: int = Field(20_000_000, ge=1, description="bytes of a request; more are answered 413")
    max_pixels: int = Field(50_000_000, ge=1, description="pixels of an image; more are answered 413, undecoded")
    max_images: int = Field(32, ge=1, description="images of a request; more are answered 413")
    min_side: int = Field(8, ge=1, description="shortest side of an image, in pixels; shorter ones are answered 422")
    decoders: int = Field(2, ge=1, description="threads that decode")
    held_bytes: int = Field(256_000_000, ge=1, description="bytes of all bodies at once; more are answered 503")
    held_pixels: int = Field(
        100_000_000, ge=1, description="decoded pixels that wait for the model; decoding pauses while there are more"
    )
    batch_pixels: int = Field(32_000_000, ge=1, description="pixels of a batch of several images")
    receive_s: float = Field(120.0, gt=0, description="longest arrival of a body; slower ones are answered 408")
    timeout_s: float = Field(30.0, gt=0, description="longest wait for an answer, which is then 503")
    grace_s: float = Field(30.0, gt=0, description="how long a stopping service works on what it has taken")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.max_images > self.queue:
            raise ValueError(f"max_images: {self.max_images} never fit into queue: {self.queue}; raise queue")
        if self.max_bytes > self.held_bytes:
            raise ValueError(f"max_bytes: {self.max_bytes} are over held_bytes: {self.held_bytes}; raise held_bytes")
        return self

    def batch_of(self, device: str) -> int:
        """Images of a batch on this device; on a CPU, as many as give each core an image of those that run at once."""
        return self.max_batch or (math.ceil(cores.usable() / self.runs_of(device)) if device == "cpu" else _GPU_BATCH)

    def runs_of(self, device: str) -> int:
        """Batches at once on this device.

        On a CPU one run does not keep all cores busy, and of larger batches the activations leave the caches: two
        cores answered a third more by two runs of an image each than by one of two images.
        """
        return self.runs or (min(cores.usable(), _CPU_RUNS) if device == "cpu" else 1)
