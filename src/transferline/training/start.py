"""The answer where no trials are wanted; without torch, so that it is there at once."""

from transferline.artifacts import Best
from transferline.model import backbones, depths
from transferline.tuning import Tune


def start_as_best(config: Tune, backbone: str, run_id: str) -> Best:
    """The values of params.yaml itself. Raises UserError where they do not suit the backbone."""
    start = depths.resolve(config, backbones.spec(backbone)).start
    return Best(**start.model_dump(exclude={"freeze_to"}), value=None, study="", run_id=run_id)
