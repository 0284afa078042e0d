"""export: one ONNX file that takes raw images, in the form preferred, kept only if it does what evaluate reported."""

from pathlib import Path

from transferline import artifacts, config, errors, tracking
from transferline.artifacts import FINETUNED, MANIFEST, METRICS, ONNX, PARITY, PREDICTIONS, TRAINING


def main() -> None:
    params = config.load("data", "export", "seed", "tracking")
    root, options, folder = Path(params.data.root), params.export, PARITY.parent
    print(f"export: {FINETUNED} -> {ONNX.parent}, as {', '.join(options.variants)}", flush=True)
    with tracking.stage("export", params, inputs=[FINETUNED, MANIFEST, METRICS, PREDICTIONS, *TRAINING, root]) as run:
        from transferline.deploy import export, latency, makers, parity, predictor, variants  # torch takes seconds
        from transferline.model import classifier

        network, card = classifier.load(FINETUNED)
        scores, train = artifacts.read_metrics("temperature"), artifacts.read_arrays("train")
        lineage = export.Lineage(tracking.git_commit(), artifacts.sha256(MANIFEST), run.run_id)
        properties = export.metadata(card, scores["temperature"], lineage, scores.get("thresholds"))
        given = variants.Given(
            deployed=export.Deployed(network, card, scores["temperature"]),
            properties=properties,
            reference=parity.Reference(root, artifacts.read_manifest(), artifacts.read_predictions(), options),
            validation=artifacts.read_arrays("val"),
            makers=makers.makers(options, train, params.seed),
            seed=params.seed,
        )
        judged, verdict = variants.produce(given, ONNX, folder)
        image, onnx = parity.decode(root, given.reference.test_rows[0]), predictor.Predictor(ONNX)
        timed = latency.measure(onnx, given.deployed, image, [1, options.batch_size], options.latency_repeats)
        latency.write(timed, onnx.device, folder / "latency.json")
        run.log_metrics({"parity_max_difference": verdict.max_difference, **latency.metrics(timed), **judged.metrics()})
        run.log_artifacts(folder, ONNX.parent)
    print(*(f"export: {line}" for line in judged.lines()), sep="\n")
    print(f"export: {verdict.summary()} -> {ONNX} ({judged.preferred}); {folder / 'variants.json'}", flush=True)


if __name__ == "__main__":
    errors.run(main)
