"""One question to an OpenAI-compatible endpoint (`/v1/chat/completions`), with bounded time and size.

Only https, or http to this machine. No redirect is followed: the question goes where the user said and nowhere else.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from flowprof.profiler.errors import UsageError

TIMEOUT_S = 180.0  # for one answer, from connecting to its last byte
ALL_S = 1200.0  # for the answers to all questions of a scan
MAX_ANSWER = 1 << 20  # bytes
TRIES = 3
_PAUSE_S = 1.0  # before the second try, doubled for the third
_AGAIN = (429, 500, 502, 503, 504)
KEY = "FLOWPROF_LLM_KEY"


class EndpointError(Exception):
    """Why there is no answer, in words. last: nor will there be one to the next question."""

    def __init__(self, why: str, last: bool = True) -> None:
        super().__init__(why)
        self.last = last


def checked(url: str) -> str:
    """The address of the chat completions below `url`. Raises UsageError."""
    hint = "--llm http://127.0.0.1:8080 or https://HOST"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is no URL: {error}", hint) from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is no URL of an endpoint", hint)
    if parts.username is not None:
        raise UsageError("a URL with a password in it would be shown by ps", f"put the key into {KEY}")
    if parts.scheme == "http" and not _loopback(host):
        raise UsageError(f"{host} is not this machine: what is sent there must be encrypted", hint)
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}"


def ask(
    url: str, body: dict[str, Any], timeout_s: float = TIMEOUT_S, pause_s: float = _PAUSE_S, until: float = math.inf
) -> str:
    """What the model said. Raises EndpointError; tries again where that may help. until: time.monotonic()."""
    address = checked(url)
    for attempt in range(TRIES):
        left_s = min(timeout_s, until - time.monotonic())
        if left_s <= 0:
            raise EndpointError("the time for all questions is over")
        try:
            return _content(_within(left_s, partial(_posted, address, body, left_s)))
        except _Passing as error:
            if attempt == TRIES - 1:
                raise EndpointError(f"{error}, {TRIES} times") from error
            time.sleep(pause_s * 2**attempt)
    raise AssertionError


class _Passing(Exception):  # noqa: N818
    """A fault that may pass."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _posted(address: str, body: dict[str, Any], timeout_s: float) -> bytes:
    headers = {"Content-Type": "application/json", "User-Agent": "flowprof"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")
    local = [urllib.request.ProxyHandler({})] if address.startswith("http:") else []
    try:
        with urllib.request.build_opener(_NoRedirect, *local).open(request, timeout=timeout_s) as answer:
            said: bytes = answer.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        with error:
            why = f"it answered {error.code} {error.reason}"
        if error.code in _AGAIN:
            raise _Passing(why) from error
        raise EndpointError(why) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise EndpointError(f"no answer within {timeout_s:.3g} s") from error
        raise _Passing(f"it cannot be reached: {error.reason}") from error
    except TimeoutError as error:
        raise EndpointError(f"no answer within {timeout_s:.3g} s") from error
    except (OSError, ValueError) as error:
        raise _Passing(f"the connection broke: {error or type(error).__name__}") from error
    except Exception as error:  # http.client's own: a status line or a length that is none
        raise EndpointError(f"what answers there speaks no HTTP: {type(error).__name__}") from error
    if len(said) > MAX_ANSWER:
        raise EndpointError(f"its answer is larger than {MAX_ANSWER >> 20} MiB")
    return said


def _within(timeout_s: float, work: Callable[[], bytes]) -> bytes:
    """The result of `work`: a socket's own timeout begins anew with every byte that a slow server sends."""
    result: list[bytes] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if failed:
        raise failed[0]
    if not result:
        raise EndpointError(f"no answer within {timeout_s:.3g} s")
    return result[0]


def _content(said: bytes) -> str:
    """The message in an answer of the chat completions' form."""
    try:
        content = json.loads(said)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise EndpointError("its answer is none of a chat completion", last=False) from error
    if not isinstance(content, str):
        raise EndpointError("its answer holds no text", last=False)
    return content


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
