"""train: the new head on the frozen backbone."""

from transferline import config, errors, tracking
from transferline.artifacts import BEST, HEAD, PLAN, PROBE, TRAINING, read_arrays, read_best, read_plan, read_probe


def main() -> None:
    params = config.load("seed", "model", "activations", "train", "tracking")
    print(f"train: the head on a frozen {params.model.backbone}", flush=True)
    with tracking.stage("train", params, inputs=[*TRAINING, BEST, PROBE, PLAN]) as run:
        from transferline.model.activations import Cache
        from transferline.training.data import Splits
        from transferline.training.stages import train_head

        splits = Splits(read_arrays("train"), read_arrays("val"), run.inputs)
        cache, best, plan = Cache(params.activations), read_best(), read_plan()
        history = train_head(
            splits,
            params.model,
            params.train,
            best=best,
            probed=read_probe(),
            plan=plan,
            seed=params.seed,
            cache=cache,
            recorder=run,
            resume=run.resume,
        )
        run.log_artifacts(HEAD)
    given = "training and validation images" if plan.refit else "training images"
    found = f"validation macro-F1 {history.best['val_macro_f1']:.4f}" if history.epochs else f"fitted on {given}"
    print(f"train: {found} -> {HEAD}", flush=True)


if __name__ == "__main__":
    errors.run(main)
