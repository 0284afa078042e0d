"""MlflowClient for a store that may go away: what it does not take is kept in the spool and sent later, in order."""

import atexit
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from transferline.errors import UserError
from transferline.secrets import redacted
from transferline.tracking import backlog, calls, reach, spool
from transferline.tracking.calls import Call

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModelOutput, Metric, Param, Run, RunTag

_PAUSES = 5.0, 60.0  # seconds between attempts to send what is kept, the first and the longest
_AT_ONCE = 3.0  # seconds that an attempt may take from the training
_FOR_AN_ANSWER = 300.0  # seconds that it may take where something needs an answer, or at the end


class Client:
    """MlflowClient's methods. Those below write, and never fail for want of a store; any other needs its answer.

    Once a call has not been taken, it and all after it go to a spool, until all of them are sent; that is tried
    in passing, ever less often, whenever something is written.

    Raises:
        UserError: from a method that needs an answer, where the store is away.
        MlflowException: where the call itself is wrong.
    """

    def __init__(self, client: "MlflowClient", uri: str, place: str) -> None:
        self._client, self._uri, self._place, self._address = client, uri, place, redacted(uri)
        self._lock = threading.RLock()
        self._spool: spool.Spool | None = None
        self._pid, self._next, self._pause, self._told, self._trouble = os.getpid(), 0.0, _PAUSES[0], False, ""

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, str] | None = None,
        run_name: str | None = None,
    ) -> "Run":
        """A run that is made later has a local id until then; that id may be used from now on, for good."""
        mark = uuid.uuid4().hex
        given = {"experiment_id": experiment_id, "start_time": start_time or _now(), "run_name": run_name}
        call = Call("create_run", {**given, "tags": {**(tags or {}), calls.MARK: mark}})
        run: Run | None = self._write(call)
        return _local_run(call, spool.LOCAL + mark) if run is None else run

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        self._write(Call("update_run", {"run_id": run_id, "status": status, "name": name}))

    def set_terminated(self, run_id: str, status: str = "FINISHED", end_time: int | None = None) -> None:
        given = {"run_id": run_id, "status": status, "end_time": end_time or _now()}
        self._write(Call("set_terminated", given))

    def log_batch(
        self,
        run_id: str,
        metrics: "Sequence[Metric]" = (),
        params: "Sequence[Param]" = (),
        tags: "Sequence[RunTag]" = (),
    ) -> None:
        given = {"metrics": list(metrics), "params": list(params), "tags": list(tags)}
        self._write(Call("log_batch", {"run_id": run_id, **given}))

    def log_metric(self, run_id: str, key: str, value: float, timestamp: int | None = None, step: int = 0) -> None:
        from mlflow.entities import Metric

        self.log_batch(run_id, metrics=[Metric(key, float(value), timestamp or _now(), step)])

    def log_param(self, run_id: str, key: str, value: object) -> None:
        from mlflow.entities import Param

        self.log_batch(run_id, params=[Param(key, str(value))])

    def set_tag(self, run_id: str, key: str, value: object) -> None:
        from mlflow.entities import RunTag

        self.log_batch(run_id, tags=[RunTag(key, str(value))])

    def log_inputs(self, run_id: str, datasets: "Sequence[DatasetInput]") -> None:
        self._write(Call("log_inputs", {"run_id": run_id, "datasets": list(datasets)}))

    def log_outputs(self, run_id: str, models: "Sequence[LoggedModelOutput]") -> None:
        self._write(Call("log_outputs", {"run_id": run_id, "models": list(models)}))

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        given = {"run_id": run_id, "local_path": local_path, "artifact_path": artifact_path}
        self._write(Call("log_artifact", given))

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        given = {"run_id": run_id, "local_dir": local_dir, "artifact_path": artifact_path}
        self._write(Call("log_artifacts", given))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._client, name)
        return self._answered(name, value) if callable(value) else value

    def close(self) -> None:
        """Send what is kept, or say that it is not sent; registered to happen when the process ends."""
        atexit.unregister(self.close)
        with self._lock:
            if not self._keeping():
                return
            assert self._spool is not None
            try:
                sent = self._send(_FOR_AN_ANSWER)
            except Exception as error:  # the interpreter is ending: some of its services are gone
                sent, self._trouble = False, reach.reason(error)
            if not sent:
                left = spool.count(self._spool.path)
                then = f"'transferline sync' sends them once MLflow at {self._address} answers"
                print(
                    f"tracking: {left} calls are kept in .cache/spool; {then} ({self._trouble or 'time is up'})",
                    flush=True,
                )
                self._spool.release()
                self._spool = None

    def _write(self, call: Call) -> Any:
        """What MLflow answers; None where the call is kept."""
        with self._lock:
            if not self._keeping():
                try:
                    return calls.send(self._client, call)
                except Exception as error:
                    self._go_on_without(error)
            assert self._spool is not None
            self._spool.append(calls.to_record(call, self._spool))
            if time.monotonic() >= self._next:
                with calls.in_passing():
                    self._send(_AT_ONCE)
            return None

    def _keeping(self) -> bool:
        if self._pid != os.getpid():  # forked: the parent's file is the parent's to send
            self._pid, self._spool = os.getpid(), None
        return self._spool is not None

    def _go_on_without(self, error: Exception) -> None:
        """Begin to keep calls, where that is what the error calls for."""
        if not (isinstance(error, spool.UnknownRunError) or reach.away(error)):
            if isinstance(error, OSError):  # an artifact store in a folder
                raise UserError(f"MLflow cannot keep a file: {error}", "mend that, then 'dvc repro'") from None
            raise error
        self._trouble = reach.reason(error)
        if not self._told:
            self._told = True
            print(
                f"tracking: MLflow at {self._address} does not answer; figures are kept in .cache/spool and sent later",
                flush=True,
            )
        self._spool = spool.Spool.begin(self._place)
        self._pause = _PAUSES[0]
        self._next = time.monotonic() + self._pause
        atexit.register(self.close)

    def _send(self, seconds: float) -> bool:
        """Try to send what is kept, and say so where nothing is left."""
        assert self._spool is not None
        sent, self._trouble = backlog.send(self._client, self._spool, self._uri, seconds)
        done = not self._trouble and backlog.finished(self._spool)
        if done:
            self._spool.discard()
            self._spool, self._told = None, False
            atexit.unregister(self.close)
            print(f"tracking: MLflow at {self._address} answers again; all that was kept is sent", flush=True)
        else:
            self._pause = 5 * _PAUSES[0] if sent else min(2 * self._pause, _PAUSES[1])
            self._next = time.monotonic() + self._pause
        return done

    def _answered(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, in the order of what is kept, with a store that is away as the user's to mend."""

        def ask(*given: Any, **named: Any) -> Any:
            with self._lock:
                if self._keeping() and not self._send(_FOR_AN_ANSWER):
                    raise self._unanswered(self._trouble)
                try:
                    with calls.patience(name):
                        real = {key: _real(value) for key, value in named.items()}
                        return method(*map(_real, given), **real)
                except Exception as error:
                    if not (isinstance(error, spool.UnknownRunError) or reach.away(error)):
                        raise
                    raise self._unanswered(reach.reason(error)) from None

        return ask

    def _unanswered(self, trouble: str) -> UserError:
        fix = "start the server, or correct or unset MLFLOW_TRACKING_URI; then repeat the command"
        return UserError(f"MLflow at {self._address} does not answer: {trouble}", fix)


def _now() -> int:
    return int(time.time() * 1000)


def _real(value: Any) -> Any:
    return spool.real(value) if isinstance(value, str) else value


def _local_run(call: Call, run_id: str) -> "Run":
    from mlflow.entities import Run, RunData, RunInfo, RunTag

    given = call.given
    begun, name = given["start_time"], given["run_name"]
    info = RunInfo(run_id, given["experiment_id"], "unknown", "RUNNING", begun, None, "active", run_name=name)
    return Run(info, RunData(tags=[RunTag(key, value) for key, value in given["tags"].items()]))
