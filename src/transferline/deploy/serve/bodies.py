"""The body of a request -> image files, read no further than the limits allow."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from transferline.deploy.serve.refusals import RefusalError
from transferline.deploy.serve.settings import Settings

FIELD = "files"
_TOO_MANY = "Too many files", "Too many fields"  # how starlette's messages begin
_FORM = f"send image files only, each as a part named '{FIELD}' with a file name"


class Upload(NamedTuple):
    """An image file as it was sent; `name` where the client gave one."""

    name: str | None
    data: bytes


class Held:
    """The bytes of all bodies that are being read or worked on."""

    def __init__(self, limit: int) -> None:
        self._limit, self.count = limit, 0

    def add(self, count: int) -> None:
        """Raises RefusalError where they become too many."""
        if self.count + count > self._limit:
            raise RefusalError(503, "busy", "the service holds as much as it can; try again")
        self.count += count

    def remove(self, count: int) -> None:
        self.count -= count


class Body:
    """One request's body. `release` gives back what it holds."""

    def __init__(self, request: Request, settings: Settings, held: Held) -> None:
        self._request, self._settings, self._held, self._count = request, settings, held, 0

    def release(self) -> None:
        self._held.remove(self._count)
        self._count = 0

    async def uploads(self) -> list[Upload]:
        """The image files of a multipart or raw body, at least one.

        Raises:
            RefusalError: 408, 413, 415, 422 or 503.
            ClientDisconnect: the client has gone.
        """
        given = self._request.headers.get("content-type", "")
        kind, _ = parse_options_header(given)
        read = self._multipart if kind == b"multipart/form-data" else self._raw
        if read == self._raw and not (kind.startswith(b"image/") or kind == b"application/octet-stream"):
            raise RefusalError(415, "type", "send multipart/form-data, image/* or application/octet-stream")
        stated = self._request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > self._settings.max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._settings.receive_s):
                return await read()
        except TimeoutError:
            raise RefusalError(408, "slow", "the body took too long to arrive") from None

    async def _raw(self) -> list[Upload]:
        async with aclosing(self._chunks()) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        if not data:
            raise RefusalError(422, "image", "the body is empty; send an image file")
        return [Upload(None, data)]

    async def _multipart(self) -> list[Upload]:
        try:
            async with aclosing(self._chunks()) as chunks:
                parser = _Parser(self._request.headers, chunks, self._settings)
                form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith(_TOO_MANY[0]):
                raise RefusalError(413, "count", f"more than {self._settings.max_images} images in a request") from None
            if error.message.startswith(_TOO_MANY[1]):
                raise RefusalError(422, "form", _FORM) from None
            raise RefusalError(422, "form", f"the form cannot be read: {error.message}") from None
        except (ValueError, LookupError):  # a character set that is none, or no text's
            raise RefusalError(422, "form", "the form cannot be read") from None
        try:
            items = form.multi_items()
            if not items or any(name != FIELD for name, _ in items):
                raise RefusalError(422, "form", _FORM)
            files = [file for _, file in items if isinstance(file, UploadFile)]
            return [Upload(file.filename or None, file.file.read()) for file in files]
        finally:
            await form.close()

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._request.stream()) as stream:
            async for chunk in stream:
                if self._count + len(chunk) > self._settings.max_bytes:
                    raise self._too_large()
                self._held.add(len(chunk))
                self._count += len(chunk)
                yield chunk

    def _too_large(self) -> RefusalError:
        return RefusalError(413, "bytes", f"more than {self._settings.max_bytes} bytes in a request")


class _Parser(MultiPartParser):
    """Keeps files in memory, which the limit on bytes bounds: none is written to disk."""

    def __init__(self, headers: Headers, chunks: AsyncGenerator[bytes, None], settings: Settings) -> None:
        super().__init__(headers, chunks, max_files=settings.max_images, max_fields=0)
        self.spool_max_size = settings.max_bytes
