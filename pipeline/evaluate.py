"""evaluate: predict the test split once, calibrate on validation, report what the model is worth."""

from transferline import artifacts, config, errors, tracking
from transferline.artifacts import ARRAYS, FINETUNED, METRICS, SPLITS


def main() -> None:
    params = config.load("seed", "evaluate", "tracking")
    print(f"evaluate: judging {FINETUNED} on the test images of {ARRAYS}", flush=True)
    options, folder = params.evaluate, METRICS.parent
    with tracking.stage("evaluate", params, inputs=[FINETUNED, ARRAYS]) as run:
        from transferline.model import classifier

        splits = {split: artifacts.read_arrays(split) for split in SPLITS}
        val, test, best = splits["val"], splits["test"], artifacts.read_best()
        network, card = classifier.load(FINETUNED)
        val_logits = classifier.predict_logits(network, val.images[:, 0], options.batch_size)
        test_logits = classifier.predict_logits(network, test.images[:, 0], options.batch_size)

        from transferline.evaluation import calibration, metrics, report  # scikit-learn takes seconds to import

        outcome = calibration.calibrate(val_logits, val.labels, test_logits, test.labels, card.classes)
        scores = metrics.evaluate(outcome, options.calibration_bins, options.bootstrap, params.seed)
        artifacts.write_json(METRICS, scores)
        artifacts.write_predictions(outcome.to_predictions(test.paths))
        report.write(folder, outcome, scores, splits=splits, card=card, best=best, options=options)
        run.log_metrics(metrics.scalars(scores))
        run.log_artifacts(folder)
    print(f"evaluate: {report.headline(scores)} -> {folder / 'report.html'}", flush=True)


if __name__ == "__main__":
    errors.run(main)
