"""lr_find: a learning-rate range test on the training images, and which rates to start and to search with."""

from transferline import config, errors, tracking
from transferline.artifacts import LR_FOUND, TRAINING, read_arrays


def main() -> None:
    params = config.load("seed", "model", "activations", "tune", "finetune", "lr_find", "tracking")
    options, backbone = params.lr_find, params.model.backbone
    print(f"lr_find: {options.steps} steps from {options.min_lr:g} to {options.max_lr:g} with {backbone}", flush=True)
    with tracking.stage("lr_find", params, inputs=TRAINING) as run:
        from transferline.model import backbones, depths
        from transferline.model.activations import Cache
        from transferline.training import lr_find, lr_report
        from transferline.training.data import Splits

        splits, cache = Splits(read_arrays("train"), read_arrays("val"), run.inputs), Cache(params.activations)
        start = depths.resolve(params.tune, backbones.spec(backbone)).start
        given = (splits, params.model, params.finetune, options)
        curve = lr_find.find(*given, start=start, seed=params.seed, cache=cache)
        lr_report.write(curve, {"backbone": backbone, **start.model_dump(exclude={"lr", "freeze_to"})}, LR_FOUND)
        for step, figures in curve.points():
            run.log_metrics(figures, step=step)
        run.log_artifacts(LR_FOUND)
        found = curve.required()
        run.log_metrics({"suggested_lr": found.lr, "lr_of_lowest_loss": found.minimum})
    print(f"lr_find: in params.yaml, {found.line()} -> {LR_FOUND}", flush=True)


if __name__ == "__main__":
    errors.run(main)
