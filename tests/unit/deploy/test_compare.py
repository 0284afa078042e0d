"""Backbones compared on small made images: each measured, or skipped with the reason, and nothing but train seen."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline import config, sections
from transferline.artifacts import ManifestRow
from transferline.deploy.compare import Comparison
from transferline.errors import UserError
from transferline.evaluation.comparison import Measured, Skipped
from transferline.model import activations, classifier
from transferline.model.activations import Cache
from transferline.on_demand import Compare

NAMES = ("mobilenet_v3_small", "resnet18")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def rows(root: Path) -> list[ManifestRow]:
    """Three classes, each with a bright channel; only images of train have a file."""
    rng, made = np.random.default_rng(0), []
    for number in range(45):
        path = root / f"{number:02d}.png"
        if number < 36:
            pixels = rng.integers(0, 120, (40, 44, 3), dtype=np.uint8)
            pixels[..., number % 3] += 100
            Image.fromarray(pixels).save(path)
        digest = sha256(path.read_bytes()).hexdigest() if path.exists() else ""
        split = "train" if number < 36 else ("val", "test")[number % 2]
        made.append(ManifestRow(path.name, "abc"[number % 3], split, digest, "", number, 44, 40))
    return made


def comparison(root: Path, rows: list[ManifestRow], folder: Path, **options: object) -> Comparison:
    params = config.Params()
    params.seed = 1
    params.data = sections.Data(root=str(root))
    params.model = sections.Model(input_size=32)
    params.activations = sections.Activations(engine="torch")
    params.export = sections.Export(batch_size=4)
    params.compare = Compare(**{"backbones": NAMES, "weights": "none", "folds": 3, "latency_repeats": 3} | options)
    return Comparison(params, rows, folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def results(root: Path, rows: list[ManifestRow], place: Path) -> list[Measured | Skipped]:
    return list(comparison(root, rows, place).each())


def test_each_backbone_is_measured(results: list[Measured | Skipped]) -> None:
    assert [result.name for result in results] == list(NAMES)
    small, large = results
    assert isinstance(small, Measured)
    assert isinstance(large, Measured)
    assert len(small.accuracy) == len(small.macro_f1) == 3
    assert min(np.mean(small.accuracy), np.mean(large.accuracy)) > 0.8  # colours survive random weights
    assert (small.feature_dim, large.feature_dim) == (576, 512)
    assert small.input_size == large.input_size == 32
    assert large.parameters == pytest.approx(11_176_512 + 3 * 513)  # torchvision's, with a head of three classes
    assert small.parameters < large.parameters
    for result in (small, large):
        assert result.latency_batch_ms > 0
        assert 0 < result.latency_ms < 1000 * result.seconds


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an export, which takes seconds."""
    monkeypatch.setattr(Comparison, "_latency", lambda *_: (0.002, 0.001, "cpu"))


@pytest.mark.usefixtures("untimed")
def test_features_are_computed_once(
    root: Path,
    rows: list[ManifestRow],
    place: Path,
    results: list[Measured | Skipped],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(activations, "choose", broken)
    again = next(comparison(root, rows, place).each())
    assert isinstance(again, Measured)
    assert again.accuracy == results[0].accuracy


@pytest.mark.usefixtures("untimed")
def test_without_the_cache_the_scores_are_the_same(
    root: Path, rows: list[ManifestRow], place: Path, results: list[Measured | Skipped], tmp_path: Path
) -> None:
    comparing = comparison(root, rows, place)
    comparing.cache = Cache(sections.Activations(mode="off"), tmp_path)
    for plain, cached in zip(comparing.each(), results, strict=True):
        assert isinstance(plain, Measured)
        assert isinstance(cached, Measured)
        assert plain.accuracy == cached.accuracy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("untimed")
def test_one_whose_weights_cannot_be_had_is_skipped_with_the_reason(
    root: Path,
    rows: list[ManifestRow],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build = classifier.build

    def offline(card: classifier.ModelCard, weights: str, seed: int) -> classifier.Classifier:
        if card.backbone == "resnet18":
            raise UserError("the weights of resnet18 cannot be downloaded", "place the file")
        return build(card, weights, seed)

    monkeypatch.setattr(classifier, "build", offline)
    small, gone = comparison(root, rows, place).each()
    assert isinstance(small, Measured)
    assert gone == Skipped("resnet18", "the weights of resnet18 cannot be downloaded")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compare:")]
    assert lines[0].startswith("compare: 1/2 mobilenet_v3_small: accuracy ")
    assert lines[1] == "compare: 2/2 resnet18: skipped: the weights of resnet18 cannot be downloaded"
    alone = comparison(root, rows, place, backbones=("resnet18",)).each()
    assert isinstance(next(alone), Skipped)
    with pytest.raises(UserError, match="none of the backbones could be compared"):
        next(alone)


def test_an_unknown_backbone_is_refused_before_anything_is_done(
    root: Path, rows: list[ManifestRow], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        comparison(root, rows, tmp_path, backbones=("mobilenet_v3_small", "resnet81"))
    assert list(tmp_path.iterdir()) == []


def test_what_all_have_in_common_is_said(root: Path, rows: list[ManifestRow], place: Path) -> None:
    about = comparison(root, rows, place, max_images=12).about()
    assert about == {"images": 12, "batch_size": 4, "weights": "none", "folds": 3, "latency_repeats": 3}
