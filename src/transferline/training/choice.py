"""Which of several trained networks is taken: by log loss on validation, paired image by image.

A few dozen validation images do not tell networks apart that differ by a little. So the best is held against the
probe, which is taken where it is no worse beyond chance (compare the one-standard-error rule of Breiman et al. 1984).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from optuna.trial import FrozenTrial
from torch import Tensor

from transferline.artifacts import Candidate, Choice, atomic, readable
from transferline.model.classifier import Classifier, Suffix, pick_device, predict_logits
from transferline.model.linear_probe import Floats, Labels, log_losses, macro_f1
from transferline.training.data import Behind, Splits
from transferline.training.scores import MONITORS

ERRORS = 0.5  # standard errors within which the probe is as good as what was fine-tuned
WEIGHTS = (0.25, 0.5, 0.75, 1.0)  # of the fine-tuned weights, the rest being the probe's (WiSE-FT)

Logits = npt.NDArray[np.float32]
_LOGITS = "validation logits"


@dataclass(frozen=True)
class Tried:
    """A trained network: the weights above its freeze depth, and what it says of the validation images.

    Attributes:
        state: entries of the classifier's state dict that training may have changed.
        logits: float32 [M, C].
    """

    state: dict[str, Tensor]
    logits: Logits

    @classmethod
    def of(cls, net: Classifier, logits: Logits) -> "Tried":
        frozen = tuple(f"blocks.{index}." for index in range(net.freeze_depth))
        entries = net.state_dict().items()  # which share their memory with a network that learns on
        return cls({key: value.clone() for key, value in entries if not key.startswith(frozen)}, logits)

    def write(self, path: Path) -> None:
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {key: value.contiguous() for key, value in self.state.items()}
        with atomic(path) as partial:
            save_file(kept | {_LOGITS: torch.from_numpy(self.logits)}, partial)

    @classmethod
    def read(cls, path: Path) -> "Tried":
        """From an empty file nothing. Raises UserError where the file is missing or broken."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        with readable(path):
            try:
                state = load_file(path)
                logits = state.pop(_LOGITS).numpy() if state else np.empty((0, 0), np.float32)
                return cls(state, logits)
            except (SafetensorError, KeyError) as error:
                raise ValueError(str(error)) from None


def validation_logits(net: Classifier, splits: Splits, behind: Behind | None, batch_size: int = 64) -> Logits:
    """float32 [M, C], from what the frozen blocks gave where that is kept; `net` is left in eval mode, on the CPU."""
    images = splits.val.images[:, 0]
    if behind is None:
        return predict_logits(net, images, 16, "validation")
    device, suffix, parts = pick_device(), Suffix(net).eval(), []
    suffix.to(device)
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, min(start + batch_size, len(images)))
        given = [part.to(device).float() for part in behind.val.take(rows, np.zeros_like(rows))]
        with torch.inference_mode():
            parts.append(suffix(*given).float().cpu().numpy())
    net.cpu().eval()
    return np.concatenate(parts)


def by_chance(losses: Floats, best: Floats, errors: float = 1.0) -> bool:
    """Whether losses [M] are higher than the best ones by no more than so many standard errors, image by image."""
    worse = losses - best
    return bool(float(worse.mean()) <= errors * float(worse.std()) / len(worse) ** 0.5)


def best_trial(trials: Sequence[FrozenTrial], objective: str) -> FrozenTrial:
    """The trial of the best value; of equals, the most frozen.

    The one-standard-error rule was measured here, too: on validation images held out from the choice, it cost log loss
    and accuracy on each of six data sets, since trained blocks are worth more than a few dozen images can prove.

    Args:
        trials: that came to their end, one at least.
    """
    sign = 1 if MONITORS[objective][1] == "max" else -1
    return max(trials, key=lambda trial: (sign * (trial.value or 0.0), trial.params["freeze_depth"]))


def interpolated(start: dict[str, Tensor], end: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Weights between two state dicts, `weight` of the way (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903)."""
    return {
        key: torch.lerp(start[key].to(value), value, weight) if value.is_floating_point() else value
        for key, value in end.items()
    }  # fmt: skip


def choose(
    net: Classifier, splits: Splits, behind: Behind | None, start: Tried, end: Tried, *, refit: bool
) -> tuple[Logits, dict[str, Tensor], Choice]:
    """Of the probe, the fine-tuned network, and points between their weights, the one that validation decides for.

    The best of the fine-tuned ones by log loss is held against the probe, which is taken where it is no worse beyond
    chance.

    Args:
        net: whose weights are changed.
        start: the probe as a network, before fine-tuning; end: after it.
        refit: said in the answer.

    Returns:
        Validation logits of the chosen one, float32 [M, C]; its weights above the freeze depth; what is reported.
    """
    labels, logits, states = splits.val.labels, {0.0: start.logits}, {0.0: start.state}
    for weight in WEIGHTS:
        states[weight] = interpolated(start.state, end.state, weight)
        net.load_state_dict(states[weight], strict=False)
        logits[weight] = end.logits if weight == 1 else validation_logits(net, splits, behind)
    losses = {weight: log_losses(given, labels)[0] for weight, given in logits.items()}
    best = min(losses, key=lambda weight: float(losses[weight].mean()))
    probe = best == 0 or by_chance(losses[0.0], losses[best], ERRORS)
    taken = 0.0 if probe else best
    candidates = [_candidate(weight, logits[weight], labels, losses[best]) for weight in logits]
    if taken:
        reason = (
            "The fine-tuned weights have the lowest log loss on validation, and the probe's is higher beyond chance."
        )
    elif best == 0:
        reason = "The probe has the lowest log loss on validation."
    else:
        reason = "The probe's log loss on validation is not higher than the lowest beyond chance, and it is simpler."
    return logits[taken], states[taken], Choice(candidates, _name(taken), reason, refit)


def _candidate(weight: float, logits: Logits, labels: Labels, best: Floats) -> Candidate:
    losses, right = log_losses(logits, labels)
    worse = losses - best
    figures = {
        "val_loss": losses.mean(),
        "val_accuracy": right.mean(),
        "val_macro_f1": macro_f1(logits, labels),
        "difference": worse.mean(),
        "standard_error": worse.std() / len(worse) ** 0.5,
    }
    return Candidate(_name(weight), weight, **{name: round(float(value), 6) for name, value in figures.items()})


def _name(weight: float) -> str:
    return {0.0: "linear probe", 1.0: "fine-tuned"}.get(weight, f"{weight:g} of the way to fine-tuned")
