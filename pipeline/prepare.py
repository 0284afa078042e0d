"""prepare: decode every file, quarantine what is broken, find duplicates, split by group."""

from pathlib import Path

from transferline import config, errors, tracking
from transferline.artifacts import LEAKAGE, MANIFEST, QUARANTINE, REPORTS, write_csv, write_manifest


def main() -> None:
    params = config.load("seed", "data", "prepare", "tracking")
    root = Path(params.data.root)
    print(f"prepare: reading the images under {root}", flush=True)

    from transferline.data import manifest, sources

    layout = sources.scan(root, params.data.labels)
    inputs = [root, Path(params.prepare.exclude)]
    with tracking.stage("prepare", params, inputs=inputs) as run:
        prepared = manifest.build(layout, params.data.split, params.prepare, params.seed)

        from transferline.data import reports

        write_manifest(prepared.rows)
        write_csv(QUARANTINE, ["path", "reason"], prepared.quarantine)
        reports.write_prepare(prepared, root, REPORTS / "prepare")
        summary = prepared.summary()
        run.log_metrics(summary)
        run.log_artifacts(QUARANTINE, REPORTS / "prepare")
    print(
        f"prepare: {summary['images']} images of {summary['classes']} classes, {summary['quarantined']} quarantined, "
        f"{summary['duplicate_groups']} groups of duplicates -> {MANIFEST}",
        flush=True,
    )
    if leaking := len(prepared.twins.get("test", [])):
        print(f"prepare: {leaking} of {summary['test']} test images have a near duplicate in train: see {LEAKAGE}")


if __name__ == "__main__":
    errors.run(main)
