"""What registered backbones are worth on the training images, frozen: accuracy of a linear probe, size, latency."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from transferline import sections
from transferline.artifacts import Arrays, ManifestRow
from transferline.config import Params
from transferline.data import clean, images
from transferline.deploy import export, latency
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.evaluation.comparison import Measured, Result, Skipped
from transferline.model import backbones, classifier
from transferline.model.activations import Cache
from transferline.model.backbones import Spec
from transferline.model.classifier import Classifier, make_card
from transferline.model.features import extract
from transferline.model.linear_probe import cross_validate


class Comparison:
    """One for all backbones.

    Args:
        params: with the sections seed, data, model, activations, compare and export.
        rows: of the manifest; those of train alone are used.
        folder: keeps, below itself, the decoded images and the features, so that a second comparison measures latency
            alone. Features are kept in float32, whatever `activations.dtype`: the probe magnifies what is faint.

    Raises:
        UserError: for a name that is not registered, or where the images cannot be cross-validated.
    """

    def __init__(self, params: Params, rows: Sequence[ManifestRow], folder: Path) -> None:
        self.params, self.folder = params, folder / "compare"
        self.cache = Cache(params.activations.model_copy(update={"dtype": "float32"}), folder / "activations")
        self.specs = [backbones.spec(name) for name in params.compare.backbones]
        self.rows = clean.sample(rows, params.compare.max_images, params.seed)
        self.groups = np.array([row.group for row in self.rows], dtype=np.int64)
        self.image = images.decode(Path(params.data.root) / self.rows[0].path)  # that latency is measured with

    def each(self) -> Iterator[Result]:
        """The backbones one after another, with a line for each.

        Raises:
            UserError: where the images cannot be read or cross-validated, or none could be compared.
        """
        compared = 0
        for number, spec in enumerate(self.specs, 1):
            result = self._one(spec)
            compared += isinstance(result, Measured)
            print(f"compare: {number}/{len(self.specs)} {spec.name}: {result.line()}", flush=True)
            yield result
        if not compared:
            raise UserError(
                "none of the backbones could be compared, for the reasons above",
                "name others in compare.backbones; 'transferline backbones' says whose weights are here",
            )

    def about(self) -> dict[str, object]:
        """What all backbones have in common."""
        compare, known = self.params.compare, {"images": len(self.rows), "batch_size": self.params.export.batch_size}
        return known | compare.model_dump(mode="json", include={"weights", "folds", "latency_repeats"})

    def _one(self, spec: Spec) -> Result:
        start = time.perf_counter()
        arrays, digest = self._decoded(spec)
        try:
            model = self.params.model.model_copy(update={"backbone": spec.name, "stochastic_depth": None})
            net = classifier.build(make_card(model, arrays), self.params.compare.weights, self.params.seed)
        except UserError as error:
            return Skipped(spec.name, error.what)
        features = self._features(net, arrays, digest)
        scores = cross_validate(features, arrays.labels, self.groups, self.params.compare.folds, self.params.seed)
        try:
            single, each, device = self._latency(net)
        except torch.onnx.errors.OnnxExporterError as error:
            return Skipped(spec.name, f"it cannot be exported: {str(error).splitlines()[0]}")
        return Measured(
            name=spec.name,
            accuracy=scores.accuracy,
            macro_f1=scores.macro_f1,
            parameters=sum(weight.numel() for weight in net.parameters()),
            input_size=net.card.input_size,
            feature_dim=features.shape[1],
            latency_ms=1000 * single,
            latency_batch_ms=1000 * each,
            device=device,
            seconds=time.perf_counter() - start,
        )

    def _decoded(self, spec: Spec) -> tuple[Arrays, str]:
        data, size = self.params.data, self.params.model.input_size or spec.input_size
        given = (self.rows, Path(data.root), size, self.params.model.resize, self.folder)
        return clean.decoded(*given, multilabel=data.labels is not None)

    def _features(self, net: Classifier, arrays: Arrays, digest: str) -> npt.NDArray[np.float32]:
        """float32 [N, P] behind all blocks, pooled; from the cache, where it may be used and has room."""
        depth, every = len(net.blocks), np.arange(len(arrays.labels))
        stored = self.cache.open(net, arrays, digest, [depth], net.card.backbone).get(depth)
        if stored is None:
            return extract(net, arrays.images[:, 0], self.params.activations.engine, net.card.backbone)
        features: npt.NDArray[np.float32] = stored.take(every, np.zeros_like(every)).float().flatten(1).numpy()
        return features

    def _latency(self, net: Classifier) -> tuple[float, float, str]:
        """Seconds of the deployed graph for one raw image, and for each of a batch; and the device.

        Of the fastest run: what else the machine does can only add to it, and may hit one backbone and not another.
        """
        options: sections.Export = self.params.export
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            about = export.metadata(net.card, 1.0, export.Lineage("", "", ""))
            export.write_onnx(export.Deployed(net, net.card, 1.0), path, options.opset, about)
            predictor = Predictor(path)
        batches = [np.repeat(self.image[np.newaxis], size, axis=0) for size in (1, options.batch_size)]
        repeats = self.params.compare.latency_repeats
        single, several = (latency.in_turns([partial(predictor.predict, batch)], repeats)[0] for batch in batches)
        return min(single), min(several) / options.batch_size, predictor.device
