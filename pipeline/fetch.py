"""fetch: lay out the embedded sample, or a torchvision data set, as class folders."""

from pathlib import Path

from transferline import config, errors, tracking
from transferline.artifacts import SAMPLE, project_root


def main() -> None:
    params = config.load("data", "tracking")
    print(f"fetch: laying out {params.data.torchvision or 'the embedded sample'} where {SAMPLE} is used", flush=True)
    with tracking.stage("fetch", params, inputs=[]) as run:
        from transferline.data import samples

        images = samples.fetch(params.data, cache=project_root() / ".cache" / "torchvision")
        run.log_metrics({"images": images})
    if Path(params.data.root).resolve() == SAMPLE.resolve():
        print(f"fetch: {images} images -> {SAMPLE}", flush=True)
    else:
        print(f"fetch: nothing to do, since the images are your own, in {params.data.root}", flush=True)


if __name__ == "__main__":
    errors.run(main)
