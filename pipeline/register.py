"""register: log and register the ONNX model; it becomes champion only if the gate passes."""

from dataclasses import asdict

from transferline import artifacts, config, errors, tracking
from transferline.artifacts import MANIFEST, METRICS, ONNX, PARITY, VERDICT
from transferline.evaluation import gate


def main() -> None:
    params = config.load("tracking", "register")
    name, alias = params.tracking.registered_model, params.register.alias
    print(f"register: judging {ONNX} for the alias {alias}", flush=True)
    with tracking.stage("register", params, inputs=[ONNX, METRICS, PARITY, MANIFEST]) as run:
        from transferline.pyfunc import loader  # mlflow takes seconds to import

        metrics, parity = artifacts.read_metrics("macro_f1", "ece_calibrated"), artifacts.read_parity()
        split = gate.test_split_identity(artifacts.read_manifest())
        held = tracking.champion(run, name, alias)
        champion = gate.Champion(held.version, held.tags) if held else None
        metrics = gate.deployed(metrics, parity)
        verdict = gate.judge(params.register, metrics, parity, champion, split)
        tags = gate.version_tags(metrics, parity["variant"], split, artifacts.sha256(ONNX))
        version = tracking.register_model(run, ONNX, name, tags, loader.__name__)
        if verdict.passed:
            tracking.set_alias(run, name, alias, version)
        now_held = version if verdict.passed else held and held.version
        registered = {"name": name, "version": version, "alias": alias, "champion_version": now_held}
        figures = {"variant": parity["variant"], "macro_f1": metrics["macro_f1"]}
        artifacts.write_json(VERDICT, {**asdict(verdict), **registered, **figures})
        run.set_tags({"variant": parity["variant"]})
        run.log_artifacts(VERDICT)
        run.log_metrics({"macro_f1": metrics["macro_f1"], "passed": verdict.passed})
    outcome = f"is {alias}" if verdict.passed else f"is refused: {verdict.reasons[0]}"
    print(f"register: {name} version {version} ({parity['variant']}) {outcome} -> {VERDICT}", flush=True)


if __name__ == "__main__":
    errors.run(main)
