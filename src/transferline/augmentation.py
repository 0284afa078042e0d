"""What `augment.policy: auto` and `augment.views: auto` stand for."""

from typing import Literal

from pydantic import TypeAdapter

from transferline.policy import Transform

# (training images at most, views): few images gain most from further views, many show enough by themselves.
VIEWS = ((700, 4), (1_000, 3), (10_000, 2))

# The ranges that fine-tuning usually takes: each alone leaves an image easy to recognise.
BROAD: tuple[Transform, ...] = TypeAdapter(tuple[Transform, ...]).validate_python(
    (
        {"name": "random_resized_crop", "area": (0.6, 1.0)},
        {"name": "horizontal_flip", "p": 0.5},
        {"name": "vertical_flip", "p": 0.5},
        {"name": "quarter_turns", "p": 0.75},
        {"name": "rotation", "degrees": (-15, 15), "p": 0.5},
        {"name": "shift", "fraction": 0.1, "p": 0.5},
        {"name": "brightness", "factor": (0.8, 1.2), "p": 0.5},
        {"name": "contrast", "factor": (0.8, 1.2), "p": 0.5},
        {"name": "saturation", "factor": (0.8, 1.2), "p": 0.5},
        {"name": "hue", "turn": (-0.05, 0.05), "p": 0.5},
        {"name": "blur", "sigma": (0.1, 1.5), "p": 0.25},
        {"name": "random_erasing", "area": (0.02, 0.1), "p": 0.25},
    )
)
# Nothing that a label may depend on: orientation, handedness, colour, fine detail.
SAFE = tuple(
    transform for transform in BROAD if transform.name in {"random_resized_crop", "shift", "brightness", "contrast"}
)


def views(setting: int | Literal["auto"], images: int) -> int:
    """Augmented views of each training image: what is set, or, for auto, the fewer the more images there are."""
    if setting != "auto":
        return setting
    return next((count for most, count in VIEWS if images <= most), 1)


def rarer(policy: tuple[Transform, ...], images: int) -> tuple[Transform, ...]:
    """The transforms with lower probabilities the fewer views an image has: in few epochs, clean images teach more."""
    share = views("auto", images) / views("auto", 1)
    return tuple(transform.model_copy(update={"p": transform.p * share}) for transform in policy)


def starting_policy(setting: tuple[Transform, ...] | Literal["auto"]) -> tuple[Transform, ...]:
    """The transforms that are audited: those listed, or, for auto, the broad list."""
    return BROAD if setting == "auto" else setting
