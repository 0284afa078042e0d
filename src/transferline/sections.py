"""The sections of params.yaml as frozen, strict models: one per stage, and the shared ones.

Every key the line knows is here, in `fitting` (train, finetune), in `tuning` (tune) or in `on_demand`, with its
default, its range and what it means; the README's table of parameters is generated from these models.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from transferline.policy import Probability, RandAugment, Section, Transform, TrivialAugment

DEFAULT_SEED = 42
Seed = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)]
Precision = Literal["fp32", "fp16", "int8"]
REFERENCE: Precision = "fp32"  # what the other variants of an exported model are held against
Width = Annotated[int, Field(ge=1)]


class Split(Section):
    """Shares of the images (of groups of near duplicates, to be exact) per split."""

    train: float = Field(0.70, gt=0, lt=1, description="share that is trained on")
    val: float = Field(0.15, gt=0, lt=1, description="share that choices are made on")
    test: float = Field(0.15, gt=0, lt=1, description="share that only evaluate and export see")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            rest = round(1 - self.val - self.test, 4)
            shares = f"train: {rest}" if rest > 0 else "train: 0.7, val: 0.15, test: 0.15"
            raise ValueError(f"the shares add up to {total:g}, not 1; {shares} would do")
        return self


class Data(Section):
    root: str = Field(
        "data/sample", min_length=1, description="folder of class folders, or with train/ val/ test/ in it"
    )
    torchvision: str | None = Field(
        None, description="name of a torchvision data set that fetch lays out in data/sample, as CIFAR10"
    )
    labels: str | None = Field(
        None,
        min_length=1,
        description="CSV of labels inside data.root, as labels.csv: any number of them an image (multi-label); null: "
        "class folders",
    )
    split: Split = Field(Split(), description="ignored where data.root brings a split of its own")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.torchvision and self.labels:
            raise ValueError(
                f"labels: {self.labels} goes with images of your own, not with torchvision: {self.torchvision};"
                " set one of them to null"
            )
        return self


class Head(Section):
    """What stands on the backbone; a linear layer on pooled features by default."""

    features: Literal["auto", "last", "blocks"] = Field(
        "auto",
        description="what it sees: last: the last block's features; blocks: those of every block; auto: those of every"
        " block, unless a linear probe does better without the first ones",
    )
    pooling: Literal["auto", "average", "max", "average_max", "generalised_mean", "token", "flatten"] = Field(
        "auto", description="features to one vector; auto: the class token where the backbone has one, else average"
    )
    hidden: Annotated[tuple[Width, ...], Strict(False)] = Field((), description="widths of hidden layers; [] is linear")
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"] = Field(
        "relu", description="of the hidden layers"
    )
    norm: Literal["none", "batch", "layer"] = Field("none", description="BatchNorm or LayerNorm in the hidden layers")

    @model_validator(mode="after")
    def _norm_of_something(self) -> Self:
        if self.norm != "none" and not self.hidden:
            raise ValueError(f"norm: {self.norm} is of hidden layers, and hidden is []; name widths, as [256]")
        return self


class Model(Section):
    backbone: str = Field(
        "efficientnet_lite0", description="as `transferline backbones` lists them, or timm/NAME for any of timm's"
    )
    weights: str = Field(
        "pretrained", min_length=1, description="pretrained, none, or a path to a state dict (.pth, .safetensors)"
    )
    input_size: int | None = Field(
        None, ge=32, le=1024, description="side of the network's input in pixels; null: the backbone's own"
    )
    resize: Literal["squash", "crop", "pad"] = Field("squash", description="how an image that is not square becomes so")
    head: Head = Field(Head(), description="what stands on the backbone")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout before each layer of the head")
    stochastic_depth: float | None = Field(
        None, ge=0, lt=1, description="share of dropped residual paths; null: the backbone's own"
    )


class Activations(Section):
    """The cache of what frozen blocks give; `activations: off` is short for `mode: off`."""

    mode: Literal["auto", "off"] = Field("auto", description="off: every epoch runs the frozen blocks again")
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="as stored; float32 repeats uncached training to the last digits, at twice the size"
    )
    max_gb: float = Field(10.0, gt=0, description="budget on disk in GB; what was used longest ago makes room")
    engine: Literal["auto", "torch", "onnxruntime"] = Field(
        "auto", description="what computes them; auto: by the device, the network and the number of images"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"mode": "off"} if given == "off" or given is False else given


class Tracking(Section):
    experiment: str = Field("transferline", min_length=1, description="MLflow experiment")
    registered_model: str = Field("transferline", min_length=1, description="name in MLflow's registry")


class Prepare(Section):
    min_side: int = Field(32, ge=1, description="quarantine images with a shorter side, in pixels")
    max_pixels: int = Field(100_000_000, ge=1, description="quarantine images with more pixels than this")
    near_duplicate_bits: int = Field(
        4,
        ge=0,
        le=16,
        description="images whose 64-bit perceptual hashes differ in at most this many bits are one group",
    )
    min_images_per_class: int = Field(3, ge=3, description="refuse a class with fewer usable images")
    exclude: str = Field(
        "exclude.txt", min_length=1, description="list of images to leave out, one path relative to data.root a line"
    )


class Augment(Section):
    views: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = Field(
        "auto",
        description="augmented views of each training image, next to the clean one; auto: 4 up to 700 training"
        " images, 3 up to 1,000, 2 up to 10,000, 1 beyond",
    )
    online: bool = Field(
        False,
        description="draw a new view of each training image every epoch; none is stored",
    )
    workers: int | None = Field(None, ge=0, le=256, description="processes; null: one a core")
    policy: Annotated[tuple[Transform, ...], Strict(False)] | Literal["auto"] = Field(
        "auto",
        description="transforms, applied in this order; auto: a broad list without those that the audit finds to"
        " destroy labels",
    )
    audit: Literal["warn", "refuse", "off"] = Field(
        "warn", description="what to do about a listed transform that a probe finds to destroy labels"
    )

    @field_validator("audit", mode="before")
    @classmethod
    def _off(cls, given: Any) -> Any:
        return "off" if given is False else given

    @field_validator("policy")
    @classmethod
    def _one_automatic(
        cls, transforms: tuple[Transform, ...] | Literal["auto"]
    ) -> tuple[Transform, ...] | Literal["auto"]:
        if transforms == "auto":
            return transforms
        automatic = [one.name for one in transforms if one.enabled and isinstance(one, TrivialAugment | RandAugment)]
        if len(automatic) > 1:
            raise ValueError(
                f"{' and '.join(automatic)} are each a whole policy; keep one of them, beside any other transforms"
            )
        return transforms


class Evaluate(Section):
    bootstrap: int = Field(2000, ge=100, le=100_000, description="resamples behind the 95 % intervals")
    calibration_bins: int = Field(15, ge=2, le=100, description="bins of the calibration error")
    gallery: int = Field(24, ge=0, le=200, description="most confident mistakes shown")
    label_errors: int = Field(
        12, ge=0, le=200, description="suspected label errors shown, the worst first; 0: none are looked for"
    )
    batch_size: int = Field(16, ge=1, description="images a forward pass; on a CPU, small is fast")


class Export(Section):
    variants: Annotated[tuple[Precision, ...], Strict(False)] = Field(
        ("fp32", "fp16", "int8"),
        description="forms that the model is made in; fp32 is what the others are judged by",
    )
    prefer: Literal["accurate", "balanced", "fast", "small"] = Field(
        "accurate",
        description="which of the variants kept is model.onnx: least loss (fp32); best throughput of those not worse "
        "beyond chance; lowest latency; smallest file",
    )
    max_loss: float = Field(
        0.01,
        ge=0,
        le=1,
        description="refuse a variant whose accuracy or macro-F1 is lower than fp32's by more than this",
    )
    calibration_images: int = Field(100, ge=1, le=100_000, description="training images that int8 is calibrated on")
    int8_trials: int = Field(
        1, ge=1, le=1000, description="1: all layers in int8; more: so many candidates that leave some in float"
    )
    opset: int = Field(20, ge=18, le=23, description="ONNX operator set")
    batch_size: int = Field(32, ge=2, description="the N at which the test split is replayed, beside 1")
    tolerance: float = Field(1e-3, gt=0, le=0.1, description="largest difference of a probability from evaluate's")
    tie: float = Field(1e-4, ge=0, le=0.1, description="top-1 may differ where two probabilities are this close")
    latency_repeats: int = Field(5, ge=3, le=10_000, description="timed runs behind each median")

    @field_validator("variants")
    @classmethod
    def _held_against_fp32(cls, variants: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if REFERENCE not in variants:
            names = ", ".join((REFERENCE, *variants))
            raise ValueError(
                f"{', '.join(variants) or '[]'} lacks fp32, which the others are judged by; [{names}] would do"
            )
        if len(set(variants)) != len(variants):
            names = ", ".join(dict.fromkeys(variants))
            raise ValueError(f"a variant is named twice; [{names}] would do")
        return variants


class Register(Section):
    min_macro_f1: Probability = Field(0.9, description="smallest macro-F1 on test for the alias champion")
    max_ece: Probability = Field(0.1, description="largest calibration error after temperature scaling")
    alias: str = Field("champion", min_length=1, description="moved to the new version where the gate passes")
