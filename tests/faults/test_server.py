"""An MLflow server that goes away while runs are open: nothing is lost, out of order or sent twice."""

import os
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run

from pipeline import sync
from tests.faults import stores
from tests.faults.stores import (
    Server,
    history,
    keep,
    named,
    new_run,
    new_run_of,
    params,
    restored_signals,
    waiting,
)
from tests.unit import tiny
from transferline import artifacts, errors, tracking
from transferline.errors import UserError
from transferline.tracking import fetching, spool, store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
project, running, server, mlflow_client = stores.project, stores.running, stores.server, stores.mlflow_client


def test_a_stage_outlives_its_server_and_nothing_is_lost_or_sent_twice(
    server: Server, mlflow_client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, folder = Path("reports/picture.txt"), Path("reports/folder")
    with tracking.stage("train", params(), inputs=[]) as run:
        for step in range(15):
            if step in (5, 10):
                server("down" if step == 5 else "up")
            run.log_metrics({"loss": 1 / (step + 1), "odd": float("nan")}, step=step)
            if step == 7:
                folder.mkdir(parents=True)
                (folder / "a b.txt").write_text("kept")
                picture.write_text("first")
                run.log_artifacts(picture, folder)
                picture.write_text("changed since")
                with run.child("trial", {"lr": 0.1}) as trial:
                    trial.log_metrics({"value": 0.5})
                    run.set_tags({"best": trial.run_id})
            run.set_tags({"at": str(step)})
    assert history(mlflow_client, run.run_id) == [(step, 1 / (step + 1)) for step in range(15)]
    assert len(mlflow_client.get_metric_history(run.run_id, "odd")) == 15
    seen = mlflow_client.get_run(run.run_id)
    (child,) = named(mlflow_client, "trial")
    assert (seen.info.status, seen.data.tags["at"]) == ("FINISHED", "14")
    assert child.info.status == "FINISHED"
    assert child.info.end_time >= child.info.start_time
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    assert (child.data.params, child.data.metrics) == ({"lr": "0.1"}, {"value": 0.5})
    assert seen.data.tags["best"] == child.info.run_id
    got = Path(mlflow_client.download_artifacts(run.run_id, "reports", "."))
    assert (got / "picture.txt").read_text() == "first"
    assert (got / "folder" / "a b.txt").read_text() == "kept"
    assert waiting() == []
    assert {path.name for path in spool.folder().iterdir()} == {"ids.jsonl"}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tracking:")]
    assert said == [
        f"tracking: MLflow at {server.uri} does not answer; figures are kept in .cache/spool and sent later",
        f"tracking: MLflow at {server.uri} answers again; all that was kept is sent",
    ]


def test_sync_sends_what_a_stage_could_not(
    server: Server, mlflow_client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = store.connect()
    run = new_run(lost)
    server("failing")
    for step in range(5):
        lost.log_metric(run.info.run_id, "loss", step, step=step)
    lost.set_terminated(run.info.run_id)
    lost.close()
    assert "6 calls are kept in .cache/spool; 'transferline sync' sends them" in capsys.readouterr().out

    with restored_signals(), pytest.raises(SystemExit) as ended:
        errors.run(sync.main)
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: MLflow cannot open {server.uri}: HTTP 503\n  start the server")
    assert "Traceback" not in captured.err

    server("up")
    sync.main()
    assert capsys.readouterr().out.splitlines() == [
        f"sync: 6 calls are kept in .cache/spool for {server.uri}",
        f"sync: 6 calls sent, nothing is left -> {server.uri}",
    ]
    assert history(mlflow_client, run.info.run_id) == [(step, step) for step in range(5)]
    assert mlflow_client.get_run(run.info.run_id).info.status == "FINISHED"
    sync.main()
    assert capsys.readouterr().out == f"sync: 0 calls are kept in .cache/spool for {server.uri}\n"


def test_the_next_stage_sends_first_what_a_killed_one_left(server: Server, mlflow_client: MlflowClient) -> None:
    run = new_run(mlflow_client)

    def lose() -> None:
        lost = store.connect()
        server("down")
        for step in range(4):
            lost.log_metric(run.info.run_id, "loss", step, step=step)
        os.kill(os.getpid(), signal.SIGKILL)

    stores.killed(lose)
    (path,) = waiting()
    with path.open("ab") as stream:
        stream.write(
            b'{"call": "log_batch", "given": {"run_id": "cut sho'
        )  # as a kill in the middle of a line leaves it
    server("up")
    with tracking.stage("train", params(), inputs=[]):
        assert history(mlflow_client, run.info.run_id) == [(step, step) for step in range(4)]
    assert waiting() == []


def test_what_was_done_but_not_answered_is_not_done_twice(server: Server, mlflow_client: MlflowClient) -> None:
    through = store.connect()
    run = new_run(through)
    model = through.create_logged_model(run.info.experiment_id, "model", source_run_id=run.info.run_id)
    server("lossy")
    child = new_run_of(through, run)
    through.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    for step in range(3):
        through.log_metric(child.info.run_id, "loss", float("inf") if step else 0.5, step=step)
        through.log_metric(run.info.run_id, "loss", step, step=step)
    server("up")
    through.set_tag(run.info.run_id, "seen", "yes")
    assert waiting() == []
    (made,) = named(mlflow_client, "child")
    assert history(mlflow_client, made.info.run_id)[0] == (0, 0.5)
    assert [step for step, _ in history(mlflow_client, made.info.run_id)] == [0, 1, 2]
    seen = mlflow_client.get_run(run.info.run_id)
    assert [output.model_id for output in seen.outputs.model_outputs] == [model.model_id]
    assert history(mlflow_client, run.info.run_id) == [(0, 0), (1, 1), (2, 2)]


def test_killed_while_sending_again_and_again(server: Server, mlflow_client: MlflowClient) -> None:
    run, steps = new_run(mlflow_client), 60
    keep(run, steps)
    sent = waiting()[0].with_suffix(".sent")
    for number in (1, 17, 40):
        process = stores.FORK.Process(target=lambda: store.send_kept(lambda: None))
        process.start()
        while process.is_alive() and (not sent.exists() or sent.read_bytes().count(b"\n") < number):
            time.sleep(0.001)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    done = sent.read_bytes().splitlines(keepends=True)
    assert 40 <= len(done) < 2 * steps
    sent.write_bytes(b"".join(done[:-3]) + b"12")  # as a power cut may leave it: the last are sent twice
    assert store.send_kept(lambda: None).trouble == ""
    assert history(mlflow_client, run.info.run_id) == [(step, step / 7) for step in range(steps)]
    assert len(named(mlflow_client, "child")) == steps // 10
    assert mlflow_client.get_run(run.info.run_id).data.tags["at"] == str(steps - 1)


def test_many_processes_keep_and_two_send_at_once(server: Server, mlflow_client: MlflowClient) -> None:
    runs = [new_run(mlflow_client, f"worker {number}") for number in range(3)]
    through = store.connect()
    server("down")

    def work(run: Run) -> None:
        for step in range(10):
            through.log_metric(run.info.run_id, "loss", step, step=step)
            through.set_tag(run.info.run_id, "at", step)
        os._exit(0)  # as a worker ends: without a farewell

    stores.together([stores.FORK.Process(target=work, args=(run,)) for run in runs])
    assert len(waiting()) == 3
    server("up")
    stores.together([stores.FORK.Process(target=store.send_kept, args=(lambda: None,)) for _ in range(2)])
    assert waiting() == []
    for run in runs:
        assert history(mlflow_client, run.info.run_id) == [(step, step) for step in range(10)]
        assert mlflow_client.get_run(run.info.run_id).data.tags["at"] == "9"


def test_what_a_living_process_keeps_is_its_own_to_send(
    server: Server, mlflow_client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    through = store.connect()
    run = new_run(through)
    server("down")
    through.set_tag(run.info.run_id, "a", "1")
    server("up")
    capsys.readouterr()
    sync.main()
    assert "0 calls sent, 1 are left to stages that run" in capsys.readouterr().out
    assert "a" not in mlflow_client.get_run(run.info.run_id).data.tags
    through.close()
    assert mlflow_client.get_run(run.info.run_id).data.tags["a"] == "1"


def test_a_run_made_while_the_store_was_away_keeps_its_local_id_for_good(
    server: Server, mlflow_client: MlflowClient
) -> None:
    through = store.connect()
    root = new_run(through)
    server("down")
    child = new_run_of(through, root)
    grandchild = new_run_of(through, child)
    assert child.info.run_id.startswith(spool.LOCAL)
    with pytest.raises(UserError, match="does not answer"):
        through.get_run(child.info.run_id)
    server("up")
    seen = through.get_run(grandchild.info.run_id)
    assert seen.data.tags["mlflow.parentRunId"] == through.get_run(child.info.run_id).info.run_id
    later = store.connect()
    later.log_metric(child.info.run_id, "loss", 1.0)
    assert later.get_run(child.info.run_id).data.metrics == {"loss": 1.0}
    assert store.real_run(child.info.run_id) == seen.data.tags["mlflow.parentRunId"]


def test_a_kept_call_that_the_store_refuses_is_put_aside_with_its_file(
    server: Server, mlflow_client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    through = store.connect()
    doomed, run = new_run(through), new_run(through)
    server("down")
    Path("figure.txt").write_text("figure")
    through.log_artifact(doomed.info.run_id, "figure.txt")
    through.set_tag(doomed.info.run_id, "a", "1")
    through.set_tag(run.info.run_id, "a", "1")
    through.close()
    server("up")
    mlflow_client.delete_run(doomed.info.run_id)
    assert store.send_kept(lambda: None).trouble == ""
    assert mlflow_client.get_run(run.info.run_id).data.tags["a"] == "1"
    assert "refuses a log_batch" in capsys.readouterr().out
    aside = (spool.folder() / "refused.jsonl").read_text()
    assert doomed.info.run_id in aside
    assert run.info.run_id not in aside


def test_a_store_is_the_same_whoever_asks_and_no_password_is_kept(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = server.uri.removeprefix("http://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter22@{host}")
    through = store.connect()
    run = new_run(through)
    server("down")
    through.set_tag(run.info.run_id, "a", "1")
    through.close()
    assert b"hunter22" not in waiting()[0].read_bytes()
    server("up")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://you:other999@{host}")
    assert store.kept().here == 1
    assert store.connect().get_run(run.info.run_id).data.tags["a"] == "1"


@pytest.mark.parametrize("name", ["register", "alias"])
def test_registering_needs_the_store_and_leaves_the_alias_where_it_was(
    server: Server, mlflow_client: MlflowClient, name: str
) -> None:
    model, path = Path.cwd().name, Path("model.onnx")
    tiny.write(path)
    through = store.connect()
    run = new_run(through)
    opened = tracking.StageRun(run.info.run_id, run.info.run_id, run.info.experiment_id, through)
    through.create_registered_model(model)
    first = through.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id).version
    tracking.set_alias(opened, model, "champion", first)
    if name == "register":
        server("readonly")
        with pytest.raises(UserError, match="does not answer"):
            tracking.register_model(opened, path, model, {}, "transferline.pyfunc.loader")
        server("up")
        assert {version.version for version in through.search_model_versions(f"name = '{model}'")} == {first}
        (logged,) = through.search_logged_models([run.info.experiment_id])
        assert logged.status == "FAILED"
    else:
        server("down")
        with pytest.raises(UserError, match="does not answer"):
            tracking.set_alias(opened, model, "champion", "2")
        with pytest.raises(UserError, match="does not answer"):
            tracking.champion(opened, model, "champion")
        server("up")
    champion = tracking.champion(opened, model, "champion")
    assert champion is not None
    assert champion.version == first


def test_a_registered_model_is_fetched_from_its_server_and_told_where_that_is_away(
    server: Server, mlflow_client: MlflowClient
) -> None:
    model, path = Path.cwd().name, Path("model.onnx")
    tiny.write(path)
    with tracking.stage("register", params(), inputs=[]) as run:
        hashed = {"onnx_sha256": artifacts.sha256(path)}
        version = tracking.register_model(run, path, model, hashed, "transferline.pyfunc.loader")
        tracking.set_alias(run, model, "champion", version)
    for downloaded in (1, 0):
        lines: list[str] = []
        assert fetching.fetch(model, "@champion", lines.append).path.read_bytes() == path.read_bytes()
        assert len(lines) == downloaded
    server("down")
    with pytest.raises(UserError, match=r"MLflow cannot open http://.*\n.*start the server"):
        fetching.fetch(model, "@champion", print)
