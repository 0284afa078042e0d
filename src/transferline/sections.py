"""The sections of params.yaml as frozen, strict models: one per stage, and the shared ones.

Every key the line knows is here, with its default, its range and what it means; the README's
table of parameters is generated from these models.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from transferline.policy import Probability, Section, Transform

DEFAULT_SEED = 42
MAX_LR = 10.0
Seed = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)]


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
    split: Split = Field(Split(), description="ignored where data.root brings a split of its own")


class Head(Section):
    """What stands on the backbone; a linear layer on pooled features by default."""

    pooling: Literal["auto", "average", "max", "average_max", "generalised_mean", "token", "flatten"] = Field(
        "auto", description="features to one vector; auto: the class token where the backbone has one, else average"
    )
    hidden: Annotated[tuple[int, ...], Strict(False)] = Field((), description="widths of hidden layers; [] is linear")
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"] = Field(
        "relu", description="of the hidden layers"
    )
    norm: Literal["none", "batch", "layer"] = Field("none", description="BatchNorm or LayerNorm in the hidden layers")

    @field_validator("hidden")
    @classmethod
    def _wide(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if min(widths, default=1) < 1:
            raise ValueError(f"{min(widths)} is no width of a layer; the smallest is 1")
        return widths

    @model_validator(mode="after")
    def _norm_of_something(self) -> Self:
        if self.norm != "none" and not self.hidden:
            raise ValueError(f"norm: {self.norm} is of hidden layers, and hidden is []; name widths, as [256]")
        return self


class Model(Section):
    backbone: str = Field("efficientnet_lite0", description="a registered backbone")
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
        "auto", description="what computes them; auto measures a few batches"
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


class Augment(Section):
    views: int = Field(2, ge=0, le=64, description="augmented views of each training image, beside the clean one")
    online: bool = Field(
        False,
        description="draw a new view of each training image every epoch; none is stored",
    )
    workers: int | None = Field(None, ge=0, le=256, description="processes; null: one a core")
    policy: Annotated[tuple[Transform, ...], Strict(False)] = Field((), description="transforms, applied in this order")


class Fit(Section):
    """What every training loop (tune, train, finetune) can be told."""

    epochs: int = Field(3, ge=1, description="passes over the training images at most")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="sgd has momentum")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(True, description="Nesterov's momentum, of sgd")
    weight_decay: float = Field(0.01, ge=0, le=1, description="decoupled for adamw, L2 in the gradient else")
    l1: float = Field(0.0, ge=0, le=1, description="penalty on the sum of absolute trained weights")
    l2: float = Field(0.0, ge=0, le=1, description="penalty on half the sum of squared trained weights")
    schedule: Literal["onecycle", "cosine", "step", "plateau", "constant"] = Field(
        "onecycle", description="learning-rate schedule; cosine starts with a linear warm-up"
    )
    warmup: Probability = Field(0.25, description="share of the steps in which onecycle and cosine rise")
    step_epochs: int = Field(2, ge=1, description="step: epochs between two drops")
    step_gamma: float = Field(0.1, gt=0, lt=1, description="step and plateau: factor of a drop")
    plateau_patience: int = Field(1, ge=0, description="plateau: epochs without improvement before a drop")
    early_stopping: int | None = Field(5, ge=1, description="epochs without improvement before stopping; null: never")
    monitor: Literal["macro_f1", "loss"] = Field("macro_f1", description="what best means on validation")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="of the cross-entropy")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: weight of a class inversely proportional to its count"
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null: not clipped")
    backbone_lr_factor: float = Field(
        0.5, gt=0, le=1, description="learning rate of the backbone as a share of the head's"
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16-mixed on a GPU that has it, 32-true else"
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field("auto", description="of Lightning")
    devices: int | Literal["auto"] = Field("auto", description="auto takes one; more than 1 is not supported yet")
    channels_last: bool = Field(True, description="memory format; faster on CPUs and on tensor cores")

    @field_validator("devices")
    @classmethod
    def _one(cls, devices: int | Literal["auto"]) -> int | Literal["auto"]:
        if devices not in ("auto", 1):
            raise ValueError(f"{devices} devices are not supported; the nearest right value is 1")
        return devices


class FloatRange(Section):
    low: float = Field(description="smallest value tried")
    high: float = Field(description="largest value tried")
    log: bool = Field(False, description="draw on a logarithmic scale")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g}); swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low:g} is out of range; a logarithmic range must start above 0")
        return self


class IntRange(Section):
    low: int = Field(ge=0, description="smallest value tried")
    high: int | None = Field(None, ge=0, description="largest value tried; null: the number of blocks")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high}); swap them")
        return self


class Search(Section):
    """The space that Optuna searches; the last three stay as in `train` and `finetune` when null."""

    lr: FloatRange = Field(FloatRange(low=3e-4, high=5e-3, log=True), description="learning rate of the head")
    batch_size: Annotated[tuple[int, ...], Strict(False)] = Field((16, 32, 64), min_length=1, description="choices")
    freeze_depth: IntRange = Field(IntRange(low=0), description="how many of the first blocks stay frozen")
    weight_decay: FloatRange | None = Field(None, description="as in train and finetune when null")
    dropout: FloatRange | None = Field(None, description="as model.dropout when null")
    label_smoothing: FloatRange | None = Field(None, description="as in train and finetune when null")

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if min(sizes) < 1:
            raise ValueError(f"{min(sizes)} is no batch size; the smallest is 1")
        return sizes

    @field_validator("lr")
    @classmethod
    def _rate(cls, lr: FloatRange) -> FloatRange:
        if lr.low <= 0:
            raise ValueError(f"low: {lr.low:g} is no learning rate; 1e-6 is the smallest sensible one")
        if lr.high > MAX_LR:
            raise ValueError(f"high: {lr.high:g} is out of range; the nearest right value is {MAX_LR:g}")
        return lr

    @field_validator("weight_decay", "dropout", "label_smoothing")
    @classmethod
    def _share(cls, searched: FloatRange | None) -> FloatRange | None:
        if searched and searched.low < 0:
            raise ValueError(f"low: {searched.low:g} is out of range; the nearest right value is 0")
        if searched and searched.high >= 1:
            raise ValueError(f"high: {searched.high:g} is out of range; it must be below 1")
        return searched


class Start(Section):
    """Values of the first trial, and the answer when there are no trials."""

    lr: float = Field(2e-3, gt=0, le=MAX_LR, description="learning rate of the head")
    batch_size: int = Field(32, ge=1, description="images a step")
    freeze_depth: int = Field(3, ge=0, description="frozen blocks, from the input on")


class Tune(Fit):
    trials: int = Field(8, ge=0, description="trials in all, earlier ones of the same study counted; 0: take `start`")
    budget: Literal["epochs", "seconds"] = Field(
        "epochs", description="what every trial gets the same of; seconds depend on the machine, and so does the result"
    )
    epochs: int = Field(1, ge=1, description="passes over the training images a trial, with budget: epochs")
    seconds: float = Field(30.0, gt=0, description="of training and validation a trial, with budget: seconds")
    train_fraction: float = Field(0.5, gt=0, le=1, description="share of the training images a trial sees, stratified")
    objective: Literal["macro_f1", "loss"] = Field("macro_f1", description="on validation")
    pruner: Literal["median", "none"] = Field("median", description="stop trials below the median of their peers")
    start: Start = Field(Start(), description="values of the first trial")
    search: Search = Field(Search(), description="the space that is searched")

    @model_validator(mode="after")
    def _start_lies_inside(self) -> Self:
        lr, depth, start = self.search.lr, self.search.freeze_depth, self.start
        high = max(start.freeze_depth, depth.low) if depth.high is None else depth.high
        if self.trials == 0:
            return self
        if not lr.low <= start.lr <= lr.high:
            nearest = min(max(start.lr, lr.low), lr.high)
            raise ValueError(f"start.lr: {start.lr:g} is outside search.lr; the nearest right value is {nearest:g}")
        if start.batch_size not in self.search.batch_size:
            nearest = min(self.search.batch_size, key=lambda size: abs(size - start.batch_size))
            raise ValueError(f"start.batch_size: {start.batch_size} is not in search.batch_size; {nearest} is nearest")
        if not depth.low <= start.freeze_depth <= high:
            nearest = min(max(start.freeze_depth, depth.low), high)
            raise ValueError(
                f"start.freeze_depth: {start.freeze_depth} is outside search.freeze_depth;"
                f" the nearest right value is {nearest}"
            )
        return self


class Train(Fit):
    epochs: int = Field(1, ge=1, description="passes over the training images with the backbone frozen")


class Finetune(Fit):
    epochs: int = Field(4, ge=1, description="passes over the training images, unfrozen down to the tuned depth")


class Evaluate(Section):
    bootstrap: int = Field(2000, ge=100, le=100_000, description="resamples behind the 95 % intervals")
    calibration_bins: int = Field(15, ge=2, le=100, description="bins of the calibration error")
    gallery: int = Field(24, ge=0, le=200, description="most confident mistakes shown")
    batch_size: int = Field(16, ge=1, description="images a forward pass; on a CPU, small is fast")


class Export(Section):
    opset: int = Field(20, ge=18, le=23, description="ONNX operator set")
    batch_size: int = Field(32, ge=2, description="the N at which the test split is replayed, beside 1")
    tolerance: float = Field(1e-3, gt=0, le=0.1, description="largest difference of a probability from evaluate's")
    tie: float = Field(1e-4, ge=0, le=0.1, description="top-1 may differ where two probabilities are this close")
    latency_repeats: int = Field(5, ge=3, le=10_000, description="timed runs behind each median")


class Register(Section):
    min_macro_f1: Probability = Field(0.9, description="smallest macro-F1 on test for the alias champion")
    max_ece: Probability = Field(0.1, description="largest calibration error after temperature scaling")
    alias: str = Field("champion", min_length=1, description="moved to the new version where the gate passes")
