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

from transferline.artifacts import FINE_TUNED, LINEAR_PROBE, Candidate, Choice, atomic, readable
from transferline.model.classifier import Classifier, Suffix, pick_device, predict_logits
from transferline.model.linear_probe import Floats, Labels, log_losses, macro_f1
from transferline.training.data import Behind, Splits
from transferline.training.scores import MONITORS

ERRORS = 0.5  # standard errors within which the probe is as good as what was fine-tuned

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


def choose(start: Tried, end: Tried, labels: Labels, *, refit: bool) -> tuple[Tried, Choice]:
    """The linear probe or the fine-tuned network, as validation decides.

    The probe is taken where its log loss is no higher beyond chance, since it is simpler.

    Points between the weights of both (WiSE-FT, arXiv 2109.01903) were measured, too: chosen on validation, they gained
    neither log loss nor accuracy on images held out from that.

    Args:
        start: the probe as a network, before fine-tuning.
        end: after it.
        labels: of the validation images, as in Arrays.
        refit: whether `end` will be fitted once more, on train and validation: written into the choice.

    Returns:
        `start` or `end`, and what each scores on validation, which of them was taken and why.
    """
    before, after = (log_losses(tried.logits, labels)[0] for tried in (start, end))
    best = min(before, after, key=np.mean)
    candidates = [
        _candidate(LINEAR_PROBE, start.logits, labels, best),
        _candidate(FINE_TUNED, end.logits, labels, best),
    ]
    if by_chance(before, after, ERRORS):
        reason = "The log loss of fine-tuned weights on validation is no lower beyond chance, and the probe is simpler."
        return start, Choice(candidates, LINEAR_PROBE, reason, refit)
    reason = "The log loss on validation is lower than the probe's, beyond chance."
    return end, Choice(candidates, FINE_TUNED, reason, refit)


def _candidate(name: str, logits: Logits, labels: Labels, best: Floats) -> Candidate:
    losses, right = log_losses(logits, labels)
    worse = losses - best
    figures = {
        "val_loss": losses.mean(),
        "val_accuracy": right.mean(),
        "val_macro_f1": macro_f1(logits, labels),
        "difference": worse.mean(),
        "standard_error": worse.std() / len(worse) ** 0.5,
    }
    return Candidate(name, **{key: round(float(value), 6) for key, value in figures.items()})
