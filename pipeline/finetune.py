"""finetune: from the trained head, everything above the tuned freeze depth."""

from transferline import config, errors, tracking
from transferline.artifacts import (
    BEST,
    FINETUNED,
    HEAD,
    PLAN,
    PROBE,
    TRAINING,
    WINNER,
    read_arrays,
    read_best,
    read_plan,
    read_probe,
)


def main() -> None:
    params = config.load("seed", "activations", "finetune", "tracking")
    best = read_best()
    frozen = "no block" if params.finetune.freezing == "full" else f"{best.freeze_depth} blocks"
    print(f"finetune: from {HEAD}, with {frozen} frozen", flush=True)
    with tracking.stage("finetune", params, inputs=[*TRAINING, HEAD, BEST, PROBE, PLAN, WINNER]) as run:
        from transferline.model.activations import Cache
        from transferline.training.data import Splits
        from transferline.training.stages import finetune

        splits = Splits(read_arrays("train"), read_arrays("val"), run.inputs)
        cache = Cache(params.activations)
        _, choice = finetune(
            splits,
            params.finetune,
            best=best,
            probed=read_probe(),
            plan=read_plan(),
            seed=params.seed,
            cache=cache,
            recorder=run,
            resume=run.resume,
        )
        run.log_metrics({f"val_{name}": getattr(choice.candidate, f"val_{name}") for name in ("loss", "macro_f1")})
        run.set_tags({"chosen": choice.chosen})
        run.log_artifacts(FINETUNED)
    print(f"finetune: {choice.chosen}: {choice.reason} -> {FINETUNED}", flush=True)


if __name__ == "__main__":
    errors.run(main)
