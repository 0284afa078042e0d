"""evaluate: predict the test split once, calibrate on validation, report what the model is worth."""

from transferline import artifacts, config, errors, tracking
from transferline.artifacts import ARRAYS, FINETUNED, HEAD, LEAKAGE, METRICS, SPLITS, TRAINING


def main() -> None:
    params = config.load("seed", "activations", "evaluate", "tracking")
    print(f"evaluate: judging {FINETUNED} on the test images of {ARRAYS}", flush=True)
    options, folder = params.evaluate, METRICS.parent
    with tracking.stage("evaluate", params, inputs=[FINETUNED, HEAD, *TRAINING, ARRAYS / "test", LEAKAGE]) as run:
        from transferline.model import classifier, logits, training_features

        splits = {split: artifacts.read_arrays(split) for split in SPLITS}
        val, test, best = splits["val"], splits["test"], artifacts.read_best()
        choice, (network, card) = artifacts.read_choice(), classifier.load(FINETUNED)
        final = logits.of_final(network, splits, options.batch_size)

        # scikit-learn takes seconds to import
        from transferline.evaluation import calibration, gain, label_errors, leakage, metrics, report

        outcome = calibration.calibrate(final["val"], val.labels, final["test"], test.labels, card.classes)
        scores = metrics.evaluate(outcome, options.calibration_bins, options.bootstrap, params.seed)
        scores |= gain.measure(
            outcome, logits.of_probe(splits, options.batch_size), splits, options.bootstrap, params.seed
        )
        scores |= leakage.compare(outcome, test.paths, leakage.read())
        doubts = None
        if options.label_errors:
            features = training_features.both(network, best.freeze_depth, splits, run.inputs, params.activations)
            doubts = label_errors.find(features, final, splits, outcome.temperature, params.seed)
            scores["label_errors"] = doubts.counts()
        artifacts.write_json(METRICS, scores)
        artifacts.write_predictions(outcome.to_predictions(test.paths))
        report.write(
            folder, outcome, scores, splits=splits, card=card, best=best, choice=choice, options=options, doubts=doubts
        )
        run.log_metrics(metrics.scalars(scores))
        run.log_artifacts(folder)
    print(f"evaluate: {report.headline(scores)} -> {folder / 'report.html'}", flush=True)


if __name__ == "__main__":
    errors.run(main)
