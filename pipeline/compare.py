"""compare: which backbone? A linear probe on the frozen features of each, on train alone, against its latency."""

import sys
from pathlib import Path

from transferline import config, errors, tracking
from transferline.artifacts import COMPARED, MANIFEST, project_root, read_manifest


def main() -> None:
    params = config.load("seed", "data", "model", "activations", "export", "compare", "tracking")
    if names := tuple(dict.fromkeys(sys.argv[1:])):
        params.compare = params.compare.model_copy(update={"backbones": names})
    print(f"compare: {', '.join(params.compare.backbones)}, frozen, on the training images", flush=True)
    with tracking.stage("compare", params, inputs=[MANIFEST, Path(params.data.root)]) as run:
        from transferline.deploy import compare, display
        from transferline.evaluation import comparison

        comparing = compare.Comparison(params, read_manifest(), project_root() / ".cache")
        results = []
        for result in comparing.each():
            results.append(result)
            with run.child(result.name, result.about()) as child:
                child.log_metrics(result.metrics())
        comparison.write(results, comparing.about(), COMPARED)
        run.log_artifacts(COMPARED)
        display.print_table(*comparison.table(results, params.export.batch_size))
        best = comparison.ranked(results)[0]
    print(f"compare: {best.name} is the most accurate: {best.line()} -> {COMPARED}", flush=True)


if __name__ == "__main__":
    errors.run(main)
