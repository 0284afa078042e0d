"""Which variants are refused, why, and which one each rule prefers."""

import json
from pathlib import Path

import pytest
from matplotlib.collections import PathCollection

from transferline.evaluation import variants, variants_picture
from transferline.evaluation.paired import Paired
from transferline.evaluation.variants import Failed, Judged, Measured, Timing


def measured(
    name: str = "int8",
    *,
    gain: float = 0.0,
    macro: float = 0.0,
    high: float = 0.01,
    size: int = 500_000,
    ms: float = 10.0,
    rate: float = 200.0,
    provider: str = "cpu",
) -> Measured:
    """`gain` and `macro` of accuracy and macro-F1; `ms` for one image, `rate` images a second in a batch."""
    beside = Paired(
        images=300,
        accuracy=0.99 + gain,
        accuracy_difference=gain,
        accuracy_interval=[gain - 0.01, high],
        macro_f1=0.98 + macro,
        macro_f1_difference=macro,
        macro_f1_interval=[macro - 0.01, 0.02],
        reference_alone=3,
        candidate_alone=1,
        p_value=0.625,
        agreement=0.99,
        max_difference=0.2,
    )
    one, many = Timing(provider, 1, [9.0, ms / 1000, 0.0]), Timing(provider, 8, [8 / rate] * 3)
    return Measured(name, size, beside, [one, many], {"note": "as it was"})


FP32 = measured("fp32", size=1_000_000)


def judge(*others: variants.Result, prefer: str = "accurate", max_loss: float = 0.01) -> Judged:
    return variants.judge([FP32, *others], prefer, max_loss)


@pytest.mark.parametrize(("figure", "word"), [("gain", "accuracy"), ("macro", "macro-F1")])
def test_a_loss_over_what_is_allowed_is_refused_and_one_just_at_it_is_kept(figure: str, word: str) -> None:
    assert judge(measured(**{figure: -0.01})).refused == {}
    reason = judge(measured(**{figure: -0.0101})).refused["int8"]
    assert reason.startswith(f"{word} on validation is 0.9")
    assert "over the 0.01 allowed" in reason


def test_neither_smaller_nor_faster_is_refused() -> None:
    assert judge(measured(size=1_000_000)).refused == {
        "int8": "it is neither smaller than fp32 (1.0 MB against 1.0 MB) nor faster by 5% at any size of batch"
    }
    assert judge(measured(size=999_999)).refused == {}


def test_faster_is_what_is_so_beyond_noise_at_one_size_of_batch_on_one_provider() -> None:
    assert judge(measured(size=2_000_000, ms=9.6, rate=205)).refused
    assert not judge(measured(size=2_000_000, ms=9.4)).refused
    assert not judge(measured(size=2_000_000, ms=30, rate=220)).refused
    with_gpu = [Timing("cuda", 1, [0.001]), *FP32.timings], [Timing("cuda", 1, [0.0005]), *FP32.timings]
    before, after = (
        Measured(name, 2_000_000, FP32.paired, timings)
        for name, timings in zip(("fp32", "fp16"), with_gpu, strict=True)
    )
    assert not variants.judge([before, after], "accurate", 0.01).refused
    assert before.latency == pytest.approx(1)


def test_what_could_not_be_made_is_refused_with_its_reason() -> None:
    judged = judge(Failed("int8", "it could not be made: no such operator"), measured("fp16"))
    assert judged.refused == {"int8": "it could not be made: no such operator"}
    assert [one.name for one in judged.kept] == ["fp32", "fp16"]
    assert judged.metrics()["int8_kept"] == 0
    assert judged.lines()[1] == "int8: refused: it could not be made: no such operator"


@pytest.mark.parametrize("gain", [0.01, 0.0, -0.001])
def test_accurate_is_fp32_since_a_gain_is_chance(gain: float) -> None:
    assert judge(measured(gain=gain, ms=1, rate=900)).preferred == "fp32"


def test_balanced_is_the_best_throughput_of_what_is_not_worse_beyond_chance() -> None:
    fast, hurt = measured("fp16", rate=300), measured("int8", rate=900, gain=-0.008, high=-0.001)
    assert judge(fast, hurt, prefer="balanced").preferred == "fp16"
    assert judge(fast, measured("int8", rate=900, gain=-0.008), prefer="balanced").preferred == "int8"


def test_fast_is_the_lowest_latency_of_one_image() -> None:
    assert judge(measured("fp16", ms=8), measured("int8", ms=5, gain=-0.005), prefer="fast").preferred == "int8"


@pytest.mark.parametrize("rule", ["balanced", "fast"])
def test_of_what_is_equal_but_for_noise_the_least_loss_is_preferred(rule: str) -> None:
    assert judge(measured(ms=9.7, rate=204), prefer=rule).preferred == "fp32"


def test_small_is_the_smallest_file_and_a_refused_one_is_never_preferred() -> None:
    small, refused = measured("fp16", size=700_000), measured("int8", size=100, gain=-0.5)
    assert judge(small, refused, prefer="small").preferred == "fp16"
    assert judge(refused, prefer="small").preferred == "fp32"


def test_everything_is_written_with_the_raw_times(tmp_path: Path) -> None:
    judged = judge(measured(gain=-0.5), Failed("fp16", "it could not be made"), prefer="small")
    variants.write(judged, {"prefer": "small"}, tmp_path / "variants.json")
    written = json.loads((tmp_path / "variants.json").read_text())
    assert (written["preferred"], written["prefer"], written["noise"]) == ("fp32", "small", 0.05)
    first, int8, fp16 = written["variants"]
    assert (first["refused"], first["bytes"], first["made"]) == (None, 1_000_000, {"note": "as it was"})
    assert first["timings"][0]["seconds"] == [9.0, 0.01, 0.0]
    assert first["timings"][0]["median_ms"] == pytest.approx(10)
    assert first["timings"][1]["images_per_second"] == pytest.approx(200)
    assert int8["refused"].startswith("accuracy on validation is 0.4900")
    assert int8["accuracy_interval"] == [-0.51, 0.01]
    assert fp16 == {"name": "fp16", "refused": "it could not be made"}


def test_a_run_is_given_figures_by_variant() -> None:
    metrics = judge(measured(gain=-0.005)).metrics()
    assert (metrics["fp32_kept"], metrics["int8_kept"], metrics["int8_bytes"]) == (1, 1, 500_000)
    assert metrics["int8_accuracy_difference"] == -0.005
    assert metrics["int8_accuracy_difference_high"] == 0.01
    assert metrics["int8_cpu_batch_8_images_per_second"] == pytest.approx(200)
    assert "fp32_p_value" not in metrics


def test_the_picture_names_every_variant_and_shows_refused_ones_hollow(tmp_path: Path) -> None:
    judged = judge(measured("fp16", ms=8), measured(gain=-0.5))
    figure = variants_picture.draw(judged)
    (axes,) = figure.axes
    assert {text.get_text().split()[0] for text in axes.texts} == {"fp32", "fp16", "int8"}
    marks = [mark for mark in axes.collections if isinstance(mark, PathCollection)]
    assert [tuple(mark.get_facecolor()[0][:3]) == (1, 1, 1) for mark in marks] == [False, False, True]
    assert marks[1].get_sizes()[0] == pytest.approx(marks[0].get_sizes()[0] / 2)
    assert "int8: refused: accuracy on validation" in figure.get_supxlabel()
    variants_picture.write(judged, tmp_path / "variants.png")
    first = (tmp_path / "variants.png").read_bytes()
    variants_picture.write(judged, tmp_path / "variants.png")
    assert (tmp_path / "variants.png").read_bytes() == first
