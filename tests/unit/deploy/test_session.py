"""Providers and threads of a session: what is asked for is had, or refused."""

import numpy as np
import onnxruntime
import pytest

from transferline import cores
from transferline.deploy import session
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError

from .conftest import Line

IMAGES = np.zeros((2, 40, 30, 3), np.uint8)


@pytest.mark.parametrize("names", [None, ["cpu"], ["CPUExecutionProvider"], ["CPU", "cpu"], []])
def test_the_cpu_can_always_be_had(line: Line, names: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_has_gpu", lambda: False)
    predictor = Predictor(line.model, providers=names)
    assert (predictor.providers, predictor.device) == (["CPUExecutionProvider"], "cpu")
    assert predictor.predict(IMAGES).shape == (2, 3)


@pytest.mark.parametrize("name", ["cuda", "tensorrt", "CUDAExecutionProvider"])
def test_a_gpu_that_is_not_there_is_refused(line: Line, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_has_gpu", lambda: False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [session.TENSORRT, session.CUDA, session.CPU])
    with pytest.raises(UserError, match=r"no NVIDIA GPU is found\n  those that can: CPUExecutionProvider$"):
        Predictor(line.model, providers=[name])


def test_a_provider_of_another_build_is_refused(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [session.CPU])
    with pytest.raises(UserError, match="CUDAExecutionProvider cannot be had here: this onnxruntime is not built"):
        Predictor(line.model, providers=["cuda"])


def test_an_unknown_provider_is_named_with_the_nearest(line: Line) -> None:
    with pytest.raises(UserError, match="'tensort' is no execution provider\n  did you mean 'tensorrt'"):
        Predictor(line.model, providers=["tensort"])


def test_a_provider_that_onnxruntime_leaves_out_is_an_error(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a GPU is found and the libraries of CUDA are not: onnxruntime runs on the CPU, and says nothing."""
    if session.CUDA not in onnxruntime.get_available_providers():
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [session.CUDA, session.CPU])
    monkeypatch.setattr(session, "_has_gpu", lambda: True)
    bare = onnxruntime.InferenceSession(line.model, providers=[session.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: bare)
    with pytest.raises(UserError, match=r"its libraries do not load\n.*it runs on CPUExecutionProvider"):
        Predictor(line.model, providers=["cuda"])
    assert Predictor(line.model).providers == [session.CPU]  # it was not asked for


def test_tensorrt_goes_before_cuda_in_full_precision_without_a_cache(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Session:
        def __init__(self, *_: object, providers: list[tuple[str, dict[str, str]]], **__: object) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return [name for name, _ in asked]

    monkeypatch.setattr(session, "_has_gpu", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [session.TENSORRT, session.CUDA, session.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    session.opened(line.model, ["tensorrt", "cuda"])
    assert [name for name, _ in asked] == [session.TENSORRT, session.CUDA, session.CPU]
    assert asked[0][1]["trt_fp16_enable"] == "0"
    assert "trt_engine_cache_enable" not in asked[0][1]
    assert asked[1][1]["use_tf32"] == "0"


def test_threads_are_those_given_or_the_containers(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable", lambda: 3)
    monkeypatch.setattr(cores, "limited", lambda: False)
    assert _options(Predictor(line.model, threads=2)).intra_op_num_threads == 2
    assert _options(Predictor(line.model)).intra_op_num_threads == 0  # onnxruntime's own choice
    monkeypatch.setattr(cores, "limited", lambda: True)
    assert _options(Predictor(line.model)).intra_op_num_threads == 3
    with pytest.raises(UserError, match="0 threads cannot compute"):
        Predictor(line.model, threads=0)


def test_threads_that_do_not_spin_give_the_same_answer(line: Line) -> None:
    key = "session.intra_op.allow_spinning"
    quiet, spinning = Predictor(line.model, threads=2, spinning=False), Predictor(line.model, threads=2)
    assert _options(quiet).get_session_config_entry(key) == "0"
    with pytest.raises(RuntimeError):  # it is not set
        _options(spinning).get_session_config_entry(key)
    np.testing.assert_array_equal(quiet.predict(IMAGES), spinning.predict(IMAGES))


def _options(predictor: Predictor) -> onnxruntime.SessionOptions:
    return predictor._session.get_session_options()
