"""What happens beside the steps: blocks are unfrozen, weights are averaged, the best are kept."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, WeightAveraging
from torch import Tensor

from transferline.training.module import Trainee


class Unfreezing(Callback):
    """Gradual unfreezing (Howard and Ruder 2018, arXiv 1801.06146): block by block, from the top down.

    The optimiser has a group for every block from the start. One that still waits is a fixed function: it gets no
    gradient, and its BatchNorm moves no statistics.

    Args:
        blocks: of the backbone.
        depth: blocks that stay frozen for good.
        epochs: of which the last trains all others; None: a block an epoch, or more where they would not suffice.
    """

    def __init__(self, blocks: int, depth: int, epochs: int | None) -> None:
        self.blocks, self.depth, self.epochs = blocks, depth, epochs

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Trainee)
        pl_module.net.freeze(self.frozen(trainer.current_epoch, trainer.max_epochs or 1))

    def frozen(self, epoch: int, epochs: int) -> int:
        """How many blocks are frozen in an epoch, from 0, of so many."""
        count = self.blocks - self.depth
        over = self.epochs or min(count, epochs)
        return self.blocks - min(-(-count * (epoch + 1) // max(over, 1)), count)


class Averaging(WeightAveraging):
    """An exponential moving average of weights and buffers: validated on, and kept, in place of the last ones.

    The decay starts low and rises to `decay`, as in TensorFlow's ExponentialMovingAverage and timm's ModelEmaV3, so
    that short trainings do not end near where they started: min(decay, (1 + n) / (10 + n)) after n steps. What does
    not move stays, to the last bit.
    """

    def __init__(self, decay: float) -> None:
        def averaged(kept: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
            steps = torch.as_tensor(count)  # on the device, where reading it would wait for every weight
            return kept + (new - kept) * (1 - ((1 + steps) / (10 + steps)).clamp(max=decay))

        super().__init__(avg_fn=averaged)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The copy was made before the module went to its device."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)


class Best(ModelCheckpoint):
    """Keeps the best weights, and knows them by name, so that a project may be moved before it is resumed."""

    _NAMED = ("best_model_path", "kth_best_model_path", "last_model_path")

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state |= {key: Path(state[key]).name for key in self._NAMED}
        return state | {"dirpath": None, "best_k_models": {Path(k).name: v for k, v in state["best_k_models"].items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(name: str) -> str:
            return str(Path(self.dirpath or "", name)) if name else ""

        state = state_dict | {key: here(state_dict[key]) for key in self._NAMED} | {"dirpath": self.dirpath}
        super().load_state_dict(state | {"best_k_models": {here(k): v for k, v in state["best_k_models"].items()}})
