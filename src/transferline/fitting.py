"""How train and finetune train, and tune's trials as finetune does: the keys of both, and of each alone."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from transferline.errors import nearest
from transferline.policy import Probability, Section

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop", "adagrad", "lamb")
Objective = Literal["macro_f1", "loss", "accuracy", "balanced_accuracy", "macro_precision", "macro_recall"]
Monitor = Literal[Objective, "train_loss", "train_accuracy"]


def _known_optimizer(name: str) -> str:
    """Names within timm are checked where timm is at hand, before training starts."""
    if name not in OPTIMIZERS and not name.startswith("timm/"):
        raise ValueError(f"'{name}' is not known; {nearest(name, [*OPTIMIZERS, 'timm/<name>'])}")
    return name


Optimizer = Annotated[str, AfterValidator(_known_optimizer)]
Epochs = Annotated[int, Field(ge=1)] | Literal["auto"]

# What `auto` epochs aim at: so many training images seen in all. Small sets need about as many steps as larger ones to
# learn as much, so they get more epochs (compare BiT's rule, Kolesnikov et al. 2020, arXiv 1912.11370).
IMAGES_SEEN, FEWEST_EPOCHS, MOST_EPOCHS = 2500, 3, 10


def auto_epochs(images: int) -> int:
    """Passes over so many training images that `auto` stands for."""
    return min(max(round(IMAGES_SEEN / images), FEWEST_EPOCHS), MOST_EPOCHS)


class Fit(Section):
    """What every training loop (tune, train, finetune) can be told."""

    epochs: Epochs = Field("auto", description="passes over the training images; auto: by the number of images")
    clean_epochs: int = Field(
        1, ge=0, description="last epochs that see the clean images instead of augmented views; the first one never"
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="focal weighs down what is right already; on several labels an image, of sigmoids"
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="focal: how much; 0 is the cross-entropy")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the targets of either loss")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: weight of a class in the loss inversely proportional to its count"
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        "shuffled", description="balanced: every class equally often in an epoch; its images come again, or not at all"
    )
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup, 0.2 is usual; 0: off; needs images, see cutmix")
    cutmix: float = Field(
        0.0, ge=0, le=10, description="alpha of CutMix, 1 is usual; 0: off; with either, frozen blocks run every epoch"
    )
    optimizer: Optimizer = Field("adamw", description="adamw, adam, sgd, rmsprop, adagrad, lamb, or `timm/<name>`")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and rmsprop")
    nesterov: bool = Field(True, description="Nesterov's momentum, of sgd")
    weight_decay: float = Field(0.01, ge=0, le=1, description="decoupled for adamw and lamb, L2 in the gradient else")
    decay_norms_and_biases: bool = Field(False, description="whether weight decay acts on biases and norms, too")
    l1: float = Field(0.0, ge=0, le=1, description="penalty on the sum of absolute trained weights")
    l2: float = Field(0.0, ge=0, le=1, description="penalty on half the sum of squared trained weights")
    schedule: Literal["onecycle", "cosine", "step", "plateau", "constant"] = Field(
        "onecycle", description="learning-rate schedule; cosine starts with a linear warm-up"
    )
    warmup: Probability = Field(0.25, description="share of the steps in which onecycle and cosine rise")
    step_epochs: int = Field(2, ge=1, description="step: epochs between two drops")
    step_gamma: float = Field(0.1, gt=0, lt=1, description="step and plateau: factor of a drop")
    plateau_patience: int = Field(1, ge=0, description="plateau: epochs without improvement before a drop")
    early_stopping: int | None = Field(
        None, ge=1, description="epochs without improvement before stopping; null: never, as schedules need their end"
    )
    early_stopping_monitor: Monitor | None = Field(None, description="of what; null: as monitor")
    monitor: Monitor = Field("loss", description="what best means; on validation but for train_...")
    gradient_clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: not clipped")
    backbone_lr_factor: float = Field(
        0.3, gt=0, le=1, description="learning rate of the backbone as a share of the head's"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of a block as a share of that of the one above; 1: all alike"
    )
    accumulate: int = Field(1, ge=1, le=1024, description="batches whose gradients make one step")
    checkpoint_share: float = Field(
        0.01,
        gt=0,
        le=1,
        description="share of the time of train and finetune that may go into keeping what a killed one goes on from;"
        " 1: it is kept after every step",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="keep a running average of the weights with this decay, 0.99 say; null: do not"
    )
    batchnorm: Literal["train", "frozen"] = Field(
        "frozen", description="frozen: blocks in training keep their statistics, better for few images"
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16-mixed on a GPU that has it, 32-true else"
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field("auto", description="of Lightning")
    devices: int | Literal["auto"] = Field("auto", description="auto takes one; more than 1 is not supported yet")
    channels_last: bool = Field(True, description="memory format; faster on CPUs and on tensor cores")

    def lasting(self, images: int) -> Self:
        """The same with a number of epochs for so many training images, where it is `auto`."""
        return self.model_copy(update={"epochs": auto_epochs(images)}) if self.epochs == "auto" else self

    @property
    def mixes(self) -> bool:
        """Whether batches of images are mixed, for which there must be images."""
        return self.mixup > 0 or self.cutmix > 0

    @field_validator("devices")
    @classmethod
    def _one(cls, devices: int | Literal["auto"]) -> int | Literal["auto"]:
        if devices not in ("auto", 1):
            raise ValueError(f"{devices} devices are not supported; the nearest right value is 1")
        return devices

    @model_validator(mode="after")
    def _balanced_once(self) -> Self:
        if self.sampling == self.class_weights == "balanced":
            raise ValueError(
                "sampling and class_weights are both balanced, which evens out the classes twice;"
                " set sampling: shuffled or class_weights: none"
            )
        return self


class Train(Fit):
    """Of a head that is not linear; a linear one is fitted as the probe is."""

    epochs: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="passes over the training images with the backbone frozen; 0 leaves the head as made"
    )


class Finetune(Fit):
    refit: bool | Literal["auto"] = Field(
        "auto",
        description="train once more, on train and validation together, with all that was chosen; auto: where that is"
        " not much work",
    )
    freezing: Literal["depth", "gradual", "full"] = Field(
        "depth",
        description="down to the tuned depth at once; gradual: block by block, from the top; full: every block",
    )
    unfreeze_epochs: int | None = Field(
        None,
        ge=1,
        description="gradual: epochs it takes; null: a block an epoch, or more where they would not do",
    )

    @model_validator(mode="after")
    def _unfrozen_in_time(self) -> Self:
        over = None if self.epochs == "auto" else self.epochs
        if self.freezing == "gradual" and over and self.unfreeze_epochs and self.unfreeze_epochs > over:
            raise ValueError(
                f"unfreeze_epochs: {self.unfreeze_epochs} is more than there are epochs;"
                f" the nearest right value is {over}"
            )
        return self


def needs_pairs(config: Fit, batch_size: int) -> None:
    """Raises ValueError where images are to be mixed that come alone."""
    if config.mixes and batch_size == 1:
        raise ValueError(
            "mixup and cutmix mix the images of a batch, and batch_size is 1;"
            " take 2 or more, or set mixup: 0 and cutmix: 0"
        )
