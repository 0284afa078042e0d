"""export: one ONNX file that takes raw images, kept only if it does what evaluate reported."""

from pathlib import Path

from transferline import artifacts, config, errors, tracking
from transferline.artifacts import FINETUNED, MANIFEST, METRICS, ONNX, PARITY, PREDICTIONS


def main() -> None:
    params = config.load("data", "export", "tracking")
    root, options, folder = Path(params.data.root), params.export, PARITY.parent
    print(f"export: {FINETUNED} -> {ONNX}, to be replayed on the test images under {root}", flush=True)
    with tracking.stage("export", params, inputs=[FINETUNED, MANIFEST, METRICS, PREDICTIONS, root]) as run:
        from transferline.deploy import export, latency, parity, predictor  # torch takes seconds to import
        from transferline.model import classifier

        network, card = classifier.load(FINETUNED)
        scores = artifacts.read_metrics("temperature")
        temperature = scores["temperature"]
        lineage = export.Lineage(tracking.git_commit(), artifacts.sha256(MANIFEST), run.run_id)
        deployed = export.Deployed(network, card, temperature)
        reference = parity.Reference(root, artifacts.read_manifest(), artifacts.read_predictions(), options)
        properties = export.metadata(card, temperature, lineage, scores.get("thresholds"))
        verdict = export.verified(deployed, properties, reference, ONNX, PARITY)

        image = parity.decode(root, reference.test_rows[0])
        onnx = predictor.Predictor(ONNX)
        timed = latency.measure(onnx, deployed, image, [1, options.batch_size], options.latency_repeats)
        latency.write(timed, onnx.device, folder / "latency.json")
        run.log_metrics({"parity_max_difference": verdict.max_difference, **latency.metrics(timed)})
        run.log_artifacts(folder, ONNX)
    agree = f"{verdict.images} of {verdict.images} test images agree (largest difference {verdict.max_difference:.0e})"
    print(f"export: {agree} -> {ONNX}", flush=True)


if __name__ == "__main__":
    errors.run(main)
