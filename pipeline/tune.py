"""tune: learning rate, batch size, freeze depth and whatever else is searched, chosen on validation by Optuna."""

from transferline import config, errors, tracking
from transferline.artifacts import BEST, REPORTS, TRAINING, read_arrays, write_best


def main() -> None:
    params = config.load("seed", "model", "activations", "tune", "tracking")
    print(f"tune: {params.tune.trials} trials with {params.model.backbone}", flush=True)
    folder = REPORTS / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    with tracking.stage("tune", params, inputs=TRAINING) as run:
        if params.tune.trials == 0:
            from transferline.training.start import start_as_best

            best = start_as_best(params.tune, params.model.backbone, run.run_id)
            print("tune: no trials wanted (tune.trials: 0): tune.start is taken as best", flush=True)
        else:
            from transferline.model.activations import Cache
            from transferline.training.data import Splits
            from transferline.training.pictures import draw_study
            from transferline.training.tune import Tuner

            data_key = "".join(run.inputs.values())
            splits = Splits(read_arrays("train"), read_arrays("val"), run.inputs)
            tuner = Tuner(
                splits,
                params.model,
                params.tune,
                seed=params.seed,
                data_key=data_key,
                cache=Cache(params.activations),
                recorder=run,
            )
            best, study = tuner.run()
            draw_study(study, folder)
            run.log_metrics({f"best_{params.tune.objective}": best.value or 0.0})
        write_best(best)
        run.log_artifacts(folder, BEST)
    further = "".join(f", {name} {value}" for name, value in best.choices.items())
    found = f"lr {best.lr:.3g}, batch size {best.batch_size}, freeze depth {best.freeze_depth}{further}"
    print(f"tune: {found} -> {BEST}", flush=True)


if __name__ == "__main__":
    errors.run(main)
