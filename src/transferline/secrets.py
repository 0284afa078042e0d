"""What must not be written down: passwords in addresses, signed queries, and the environment's secrets."""

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

MASK = "***"
SHORTEST = 6  # characters: anything shorter occurs in ordinary text

# A password may hold "/" or "@" as they are (SQLAlchemy takes them), but "host:5000/x@y" has none.
_USERINFO = re.compile(r"(?<=://)([^\s:/?#@'\"<>]*)(?::(?!\d{1,5}[/?#])([^\s'\"<>]*))?@(?=[^\s/@'\"<>]*)")
_QUERY = re.compile(
    r"([?&;](?:[\w.~%-]*[-_.])?"
    r"(?:\w*token|\w*password|passw(?:or)?d|pwd|(?:\w*api|\w*access)?key(?:id)?|\w*secret|credentials?|sig(?:nature)?)"
    r"=)[^\s&;#'\"<>]+",
    re.IGNORECASE,
)
_STATED = re.compile(r"(\b(?:\w*password|passwd|pwd|\w*token|\w*secret)=)[^\s&;#,'\"<>)]+", re.IGNORECASE)
_TOKEN = re.compile(r"(?=[\w.~%-]*\d)[\w.~%-]{16,}")  # as `ghp_...@github.com`, which no user is called
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:\w*TOKENS?|\w*SECRETS?|\w*PASSWORDS?|PASSWD|PASSPHRASE|PASS|\w*KEYS?|CREDENTIALS?)(?:_|$)"
    r"|.+_PWD$",  # PWD itself is the working folder
    re.IGNORECASE,
)
_PLACE_NAME = re.compile(r"_(?:PATH|FILE|DIR|SOCK)$", re.IGNORECASE)  # says where a secret lies


def redacted(text: str) -> str:
    """`text` with every secret in it replaced by `***`; what has none comes back as it is.

    Secrets are: the password of any URI in the text, and a user name that is a token; the values of query parameters
    such as token, password, key, secret and signature; and, wherever they occur, as they are or percent-encoded, the
    values of environment variables that are named like secrets (TOKEN, SECRET, PASSWORD, KEY, ...) or the passwords in
    their URIs, from 6 characters on.
    """
    text = _USERINFO.sub(_masked_userinfo, text)
    text = _STATED.sub(rf"\1{MASK}", _QUERY.sub(rf"\1{MASK}", text))
    for secret in sorted(set(_environment()), key=lambda value: (-len(value), value)):  # one may hold another
        text = text.replace(secret, MASK)
    return text


def _masked_userinfo(found: re.Match[str]) -> str:
    user, password = found[1], found[2]
    shown = MASK if _TOKEN.fullmatch(user) else user
    return f"{shown}@" if password is None else f"{shown}:{MASK}@"


def _environment() -> Iterator[str]:
    for name, value in os.environ.items():
        found = [match[2] for match in _USERINFO.finditer(value) if match[2]]
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
            found.append(value)
        for secret in found:
            yield from (form for form in (secret, unquote(secret), quote(secret, safe="")) if len(form) >= SHORTEST)
