"""finetune: from the trained head, everything above the tuned freeze depth."""

from transferline import config, errors, tracking
from transferline.artifacts import BEST, FINETUNED, HEAD, TRAINING, read_arrays, read_best


def main() -> None:
    params = config.load("seed", "activations", "finetune", "tracking")
    best = read_best()
    frozen = "no block" if params.finetune.freezing == "full" else f"{best.freeze_depth} blocks"
    print(f"finetune: from {HEAD}, with {frozen} frozen", flush=True)
    with tracking.stage("finetune", params, inputs=[*TRAINING, HEAD, BEST]) as run:
        from transferline.model.activations import Cache
        from transferline.training.data import Splits
        from transferline.training.stages import finetune

        splits = Splits(read_arrays("train"), read_arrays("val"), run.inputs)
        cache = Cache(params.activations)
        history = finetune(
            splits, params.finetune, best=best, seed=params.seed, cache=cache, recorder=run, resume=run.resume
        )
        run.log_artifacts(FINETUNED)
    print(f"finetune: validation macro-F1 {history.best['val_macro_f1']:.4f} -> {FINETUNED}", flush=True)


if __name__ == "__main__":
    errors.run(main)
