"""augment: audit the policy; decode once, into clean arrays of every split and augmented views of train."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from transferline import augmentation, config, errors, tracking
from transferline.artifacts import ARRAYS, MANIFEST, REPORTS, read_arrays, read_manifest


def main() -> None:
    params = config.load("seed", "data", "model", "augment", "tracking")
    rows, root, augment, model = read_manifest(), Path(params.data.root), params.augment, params.model
    images = sum(row.split == "train" for row in rows)
    views = augmentation.views(augment.views, images)
    print(f"augment: {len(rows)} images, {views} augmented views of each training image", flush=True)
    with tracking.stage("augment", params, inputs=[MANIFEST, root]) as run:
        from transferline.data import arrays, clean, pictures
        from transferline.evaluation import audit_report
        from transferline.model import backbones, probing

        size, multilabel = backbones.input_size(model.backbone, model.input_size), params.data.labels is not None
        recipe = arrays.Recipe(size, model.resize, views, (), params.seed, augment.online, multilabel)
        take = partial(clean.taken, rows, root, recipe, augment.workers)
        look = partial(probing.look, take, model, params.seed)
        folder = REPORTS / "augment"
        policy, verdict = audit_report.run(augment, model.weights, look, folder, images=images, seed=params.seed)
        if verdict:
            run.log_metrics(verdict.metrics())
            run.log_artifacts(folder)
            verdict.enforce(augment.audit)
        written = arrays.write(rows, root, replace(recipe, policy=policy), augment.workers)
        train = read_arrays("train")
        draw = partial(arrays.examples, train=train, count=views or 2, seed=params.seed)
        pictures.preview(train, folder / "preview.png", audit_report.caption(policy, verdict), draw)
        run.log_metrics({"images": len(rows), "bytes": written})
        run.log_artifacts(folder)
    print(f"augment: {written / 1e6:.0f} MB at {size} px -> {ARRAYS}", flush=True)


if __name__ == "__main__":
    errors.run(main)
