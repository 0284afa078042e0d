"""tune: a linear probe, then learning rate, batch size, freeze depth and whatever else is searched, by Optuna."""

from transferline import artifacts, config, errors, tracking
from transferline.artifacts import BEST, PLAN, PROBE, REPORTS, TRAINING, WINNER, read_arrays


def main() -> None:
    params = config.load("seed", "model", "activations", "tune", "finetune", "tracking")
    print(f"tune: trials with {params.model.backbone}, each a whole fine-tuning", flush=True)
    folder = REPORTS / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    with tracking.stage("tune", params, inputs=TRAINING) as run:
        from transferline.model.activations import Cache
        from transferline.training import pictures
        from transferline.training.data import Splits
        from transferline.training.tune import Tuner

        splits = Splits(read_arrays("train"), read_arrays("val"), run.inputs)
        tuner = Tuner(
            splits,
            params.model,
            params.tune,
            params.finetune,
            seed=params.seed,
            data_key="".join(run.inputs.values()),
            cache=Cache(params.activations),
            recorder=run,
        )
        probed = tuner.probe()
        pictures.draw_probe(probed, folder / "probe.png")
        print(f"tune: {tuner.planned()}", flush=True)
        best, study = tuner.run()
        artifacts.write_best(best)
        artifacts.write_probe(probed)
        artifacts.write_plan(tuner.plan)
        if study:
            pictures.draw_study(study, folder)
            run.log_metrics({f"best_{params.tune.objective}": best.value or 0.0})
        tuner.keep_winner(WINNER)
        run.log_artifacts(folder, BEST, PROBE, PLAN)
    further = "".join(f", {name} {value}" for name, value in best.choices.items())
    found = f"lr {best.lr:.3g}, batch size {best.batch_size}, freeze depth {best.freeze_depth}{further}"
    print(f"tune: {found} -> {BEST}", flush=True)


if __name__ == "__main__":
    errors.run(main)
