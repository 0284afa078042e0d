"""train: the new head on the frozen backbone."""

from transferline import config, errors, tracking
from transferline.artifacts import BEST, HEAD, TRAINING, read_arrays, read_best


def main() -> None:
    params = config.load("seed", "model", "activations", "train", "tracking")
    print(f"train: the head on a frozen {params.model.backbone}", flush=True)
    with tracking.stage("train", params, inputs=[*TRAINING, BEST]) as run:
        from transferline.model.activations import Cache
        from transferline.training.data import Splits
        from transferline.training.stages import train_head

        splits = Splits(read_arrays("train"), read_arrays("val"), run.inputs)
        cache, best = Cache(params.activations), read_best()
        history = train_head(
            splits,
            params.model,
            params.train,
            best=best,
            seed=params.seed,
            cache=cache,
            recorder=run,
            resume=run.resume,
        )
        run.log_artifacts(HEAD)
    found = f"validation macro-F1 {history.best['val_macro_f1']:.4f}" if history.epochs else "the head as it was made"
    print(f"train: {found} -> {HEAD}", flush=True)


if __name__ == "__main__":
    errors.run(main)
