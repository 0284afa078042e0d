"""What is masked, what is left alone, and that masking twice changes nothing."""

import pytest

from transferline.secrets import redacted

URIS = [
    ("postgresql://ann:p@ss/w0rd@db:5432/runs?x=1", "postgresql://ann:***@db:5432/runs?x=1"),
    ("http://ann:pw@host/ and https://bob:pw2@other", "http://ann:***@host/ and https://bob:***@other"),
    ('{"uri": "mysql+pymysql://ann:pw@host/db"}', '{"uri": "mysql+pymysql://ann:***@host/db"}'),
    ("http://:pw@host", "http://:***@host"),
    ("https://ghp_16charactersOr1@github.com/x", "https://***@github.com/x"),
    ("https://b.s3.host/k?X-Amz-Signature=ab%2F1&part=2", "https://b.s3.host/k?X-Amz-Signature=***&part=2"),
    ("https://host/k?a=1&access_token=t0k#end", "https://host/k?a=1&access_token=***#end"),
    ("https://host/k?AWSAccessKeyId=A&api_key=B&key=C", "https://host/k?AWSAccessKeyId=***&api_key=***&key=***"),
    ("cannot connect: host=db password=pw, port=1", "cannot connect: host=db password=***, port=1"),
]
PLAIN = [
    "http://localhost:5000/x@y",
    "sqlite:////home/ann/mlruns/mlflow.db",
    "ssh://git@github.com/ann/line",
    "https://host/k?monkey=1&sort=name",
    "tune.key: 'lr' is not known\n  did you mean 'lr'?",
    "ann@example.org wrote http://example.org:80",
]


@pytest.mark.parametrize(("text", "expected"), URIS)
def test_secrets_in_addresses_are_masked(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize("text", PLAIN)
def test_what_has_no_secret_comes_back_as_it_is(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "DB_PASS", "MYSQL_PWD", "WANDB_API_KEY"]
)
def test_the_environments_secrets_are_masked_wherever_they_occur(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush/hush")
    assert redacted("said hush/hush to hush%2Fhush") == "said *** to ***"


def test_a_password_within_a_variables_uri_is_masked_where_it_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s%40fe-word@host")
    assert redacted("tried s@fe-word and s%40fe-word at host") == "tried *** and *** at host"


@pytest.mark.parametrize(
    ("name", "value"), [("OLDPWD", "/home/ann"), ("TOKENIZERS_PARALLELISM", "parallel"), ("SSH_KEY_FILE", "/home/ann")]
)
def test_settings_that_are_no_secrets_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"in {value}") == f"in {value}"


def test_short_values_stay_since_they_occur_in_ordinary_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "train")
    assert redacted("the train split") == "the train split"


def test_of_two_secrets_the_longer_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdef-ghi")
    assert redacted("abcdef-ghi") == "***"
