"""A feed that is pulled over HTTP: RSS, Atom or JSON lines."""

import asyncio
import json
import logging
import os
import ssl
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2

from services.retriever.domain import Header
from services.retriever.domain.uploads import Origin, Upload
from services.retriever.sources.config import SourceConfig
from services.retriever.sources.look import MARK, Item, Look, SourceFault, document_id

_MODULE = "services.retriever.sources.reading"
_CONNECT_S, _SILENCE_S, _PULL_S, _READ_S = 5.0, 10.0, 30.0, 60.0
_MAX_BYTES = 16 * 1024 * 1024
_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)


class Feed:
    """Shows the documents of a feed; asks for it only if it has changed since the last look that was accepted."""

    origin = Origin.FEED

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        # One line for each request is noise beside our own log.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
            verify=ssl.create_default_context(),
            trust_env=False,
            follow_redirects=False,
        )
        self._accepted: dict[str, str] = {}
        self._offered: dict[str, str] = {}

    async def look(self) -> Look | None:
        """Pulls the feed and reads it."""
        try:
            async with asyncio.timeout(_PULL_S):
                body = await self._pull()
        except TimeoutError:
            raise SourceFault(f"the feed takes more than {_PULL_S:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceFault(f"the feed cannot be had: {type(error).__name__}") from error
        except OSError as error:
            raise SourceFault(f"the token file cannot be read: {error.strerror}") from error
        if body is None:
            return None
        items: list[Item] = []
        faults: list[str] = []
        for row in await _rows(self._config.format, body):
            if "fatal" in row:
                raise SourceFault(f"the feed cannot be read: {row['fatal']}")
            if "fault" in row:
                faults.append(row["fault"])
            else:
                items.append(self._item(row))
        return Look(items=items, faults=faults)

    def accept(self) -> None:
        """Lets the next pull ask for what is newer than the last one."""
        self._accepted = self._offered

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _pull(self) -> bytes | None:
        """Returns the body; None where it is what was accepted."""
        url = httpx2.URL(self._config.url)
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._client.stream("GET", url, headers=self._headers()) as response:
                if response.status_code == 304:
                    return None
                if response.status_code in _REDIRECTS:
                    url = _target(url, response.headers.get("location", ""))
                    continue
                if response.status_code != 200:
                    raise SourceFault(f"the feed's server answers {response.status_code}")
                body = await _body(response)
                kept = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
                self._offered = {ask: response.headers[told] for ask, told in kept.items() if told in response.headers}
                return body
        raise SourceFault(f"the feed redirects more than {_MAX_REDIRECTS} times")

    def _headers(self) -> dict[str, str]:
        # Uncompressed: what a small body unpacks to has no bound.
        headers = {"Accept-Encoding": "identity", "User-Agent": "tandem-retriever", **self._accepted}
        if self._config.token_file:
            headers["Authorization"] = f"Bearer {Path(self._config.token_file).read_text().strip()}"
        return headers

    def _item(self, row: Mapping[str, Any]) -> Item:
        identity = document_id(self._config.name, row["id"])
        header = Header(
            source=row["source"],
            media_type=row["media_type"],
            title=row["title"],
            groups=self._config.groups,
            valid_from=row["valid_from"],
            valid_until=row["valid_until"],
            attributes={**row["attributes"], MARK: self._config.name},
        )
        data = row["text"].encode()

        async def load() -> Upload:
            return Upload(document_id=identity, header=header, data=data)

        stamp = sha256(json.dumps({**row, "changed": None}).encode()).digest()
        return Item(document_id=identity, stamp=stamp, changed=(row["changed"] or 0) / 1e6, load=load)


def _target(url: httpx2.URL, location: str) -> httpx2.URL:
    """Returns where a redirect leads; raises SourceFault unless that is the same host, over TLS where it was."""
    target = url.join(location)
    upgraded = url.scheme == "http" and target.scheme == "https"
    same = (target.scheme, target.port) == (url.scheme, url.port)
    if target.host != url.host or not (same or upgraded) or target.userinfo:
        shown = str(target.copy_with(userinfo=b"", query=None))[:200]
        raise SourceFault(f"the feed redirects to {shown}; write that into url if it is right")
    return target


async def _body(response: httpx2.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise SourceFault("the feed's server compresses though it is asked not to; have it stop")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > _MAX_BYTES:
            raise SourceFault(f"the feed has more than {_MAX_BYTES >> 20} MiB; have it show fewer documents")
    return bytes(body)


async def _rows(kind: str, body: bytes) -> list[dict[str, Any]]:
    """Returns what a reading process makes of a feed."""
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LANG": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-m", _MODULE, kind, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=env
    )
    try:
        async with asyncio.timeout(_READ_S):
            out, _ = await process.communicate(body)
    except TimeoutError:
        raise SourceFault(f"reading the feed takes more than {_READ_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise SourceFault("reading the feed went beyond its bounds of memory or time")
    return list(_checked(out))


def _checked(out: bytes) -> Iterator[dict[str, Any]]:
    """Yields the rows that can be stored: text with lone surrogates cannot."""
    for line in out.splitlines():
        row = json.loads(line)
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            row = {"fault": "a document holds characters that are none"}
        yield row
