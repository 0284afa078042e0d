"""Whether the MLflow store can be reached, found out in seconds, and which errors mean that it cannot."""

import logging
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferline.errors import UserError
from transferline.secrets import redacted
from transferline.tracking.calls import ANSWER_SECONDS

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

LOCKED_SECONDS = 60.0  # for which a stage that begins waits for another process's lock on the database
_FIRST_SECONDS = 5.0  # for which a stage that begins waits for a server
_BUSY = "it is locked by another process"
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_HEARTS = ("Connection refused", "timed out", "Name or service not known", "No route to host", "database is locked")
_AWAY = {
    "INTERNAL_ERROR",  # also what MLflow makes of a refused connection, and of any 5xx without a code
    "TEMPORARILY_UNAVAILABLE",  # of SQL: locked, gone, full
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
}
_MISUSE = (TypeError, ValueError, LookupError, AttributeError)  # inside MLflow, which calls them INTERNAL_ERROR, too
_REMOTE = {"boto3", "botocore", "s3transfer", "azure", "google", "urllib3", "paramiko", "smart_open"}  # artifact stores


def be_patient() -> None:
    """Have MLflow give up within seconds where it would try for minutes, and keep its trouble out of the log.

    What the user has set stays. Nor is the address of a run printed where it would hold a password.
    """
    defaults = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": ANSWER_SECONDS,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 2,
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": 1,
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for an hour
    }
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if redacted(address) != address:
        defaults["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for each attempt
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of a locked database


def require(uri: str, fix: str) -> None:
    """Return once the store answers.

    Raises:
        UserError: where it does not within seconds, or is a damaged or locked database; `fix` says what to do.
    """
    begun, told = time.monotonic(), False
    while (trouble := _trouble(uri, _FIRST_SECONDS)) is not None:
        if trouble != _BUSY:
            raise UserError(f"MLflow cannot open {redacted(uri)}: {trouble}", fix)
        if not told:
            told = True
            print(f"tracking: {redacted(uri)} is locked by another process: waiting", flush=True)
        if time.monotonic() - begun > LOCKED_SECONDS:
            what = f"{redacted(uri)} has been locked by another process for {LOCKED_SECONDS:.0f} s"
            raise UserError(what, "end the process that holds it, as 'fuser' on the file shows, then 'dvc repro'")


def answers(uri: str) -> bool:
    """Whether it is worth trying to send something: a few seconds at most, usually milliseconds."""
    return _trouble(uri, 2.0) is None


def away(error: BaseException) -> bool:
    """Whether a call failed since the store is not there, and not for what the call said."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    if isinstance(error, MlflowException):
        if error.error_code == "INTERNAL_ERROR" and isinstance(error.__cause__, _MISUSE):
            return isinstance(error.__cause__, RequestException)
        return error.error_code in _AWAY or _damaged(error)
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(error, RequestException | OperationalError | InterfaceError):
        return True
    if isinstance(error, DBAPIError):
        return _damaged(error)
    return type(error).__module__.partition(".")[0] in _REMOTE


def _damaged(error: Exception) -> bool:
    return any(word in str(error) for word in ("database disk image is malformed", "file is not a database"))


def reason(error: BaseException) -> str:
    """One line on an error, without secrets: the heart of it where that is known, as MLflow quotes whole objects."""
    text = str(error)
    for known in _HEARTS:
        if known in text:
            return known.lower()
    return redacted((text.strip().splitlines() or [type(error).__name__])[0])[:300]


def _trouble(uri: str, seconds: float) -> str | None:
    """Why the store does not answer; None where it does, or where only a call can tell."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if uri.startswith(("http://", "https://")):
        return _http(uri, seconds)
    try:
        url = make_url(uri)
    except ArgumentError:
        return None
    if url.get_backend_name() == "sqlite":
        return _sqlite(Path(url.database)) if url.database else None
    return _tcp(url, seconds)


def _http(uri: str, seconds: float) -> str | None:
    """Any answer below 500 will do: not every server has this path. MLflow knows proxies and certificates."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    request: Callable[..., Any] = http_request
    credentials: Callable[[str], Any] = get_default_host_creds
    once = {"max_retries": 0, "backoff_factor": 0, "backoff_jitter": 0.0, "retry_codes": frozenset[int]()}
    try:
        answer = request(credentials(uri), "/health", "GET", timeout=seconds, raise_on_status=False, **once)
    except Exception as error:  # MLflow makes an MlflowException of anything
        return reason(error)
    return f"HTTP {answer.status_code}" if answer.status_code >= 500 else None


def _sqlite(file: Path) -> str | None:
    """Try to read and to lock the database for writing, as a call would."""
    if not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(file, timeout=1.0, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("SELECT count(*) FROM sqlite_master")
            database.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        return _BUSY if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) else str(error)
    return None


def _tcp(url: "URL", seconds: float) -> str | None:
    port = url.port or _PORTS.get(url.get_backend_name())
    if not (url.host and port):
        return None
    try:
        socket.create_connection((url.host, port), seconds).close()
    except OSError as error:
        return str(error)
    return None
