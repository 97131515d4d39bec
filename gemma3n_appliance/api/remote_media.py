"""Fetches pictures from where clients say they are, with care: a server reaches what its clients may not."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
import httpcore2
import httpx2

from .. import __version__
from ..errors import InvalidRequestError
from .workers import Workers

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_PICTURES = 16
MAX_REDIRECTS = 3
# For all pictures of a request together.
FETCH_S = 30.0
CONNECT_S = 5.0
NUM_LOOKUPS = 4
NUM_FETCHERS = 4

_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS: dict[bytes | str, bytes | str] = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "User-Agent": f"gemma3n-appliance/{__version__}",
}
_TIMEOUTS = {"timeout": {"connect": CONNECT_S, "read": FETCH_S, "write": CONNECT_S, "pool": FETCH_S}}
# In whose addresses one of IPv4 stands last: deprecated, mapped, translated, of NAT64 (RFC 6052, 8215).
_HOLD_IPV4 = tuple(
    map(
        ipaddress.IPv6Network,
        ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/96"),
    )
)
# What Python takes for public and is not: site-local addresses, as they once were.
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_NEVER = (ipaddress.IPv6Network("fec0::/10"),)


class RemoteMedia:
    """Fetches by http and https alone, and from public addresses, or those of ``networks``.

    Names are looked up once, and what is connected to is what has been looked at: a name that means another
    machine a moment later (DNS rebinding) changes nothing. Redirects are looked at in the same way.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._backend = _GuardedBackend(networks)
        # Reading the certificates takes some hundredths of a second.
        self._ssl_context = ssl.create_default_context()
        # Not in the server's own event loop: what comes may be written so that it takes long to read.
        self._workers = Workers(NUM_FETCHERS)

    async def fetch(self, pictures: Mapping[str, str], max_mb: int) -> dict[str, bytes]:
        """Returns what is at each URL, of which ``pictures`` has the paths in the request.

        Raises:
            InvalidRequestError: one cannot be fetched, or together they are more than ``max_mb`` megabytes.
        """
        if len(pictures) > MAX_PICTURES:
            *_, param = pictures.values()
            raise InvalidRequestError(
                f"This server fetches {MAX_PICTURES} pictures for a request at most: send the files "
                "themselves, as data: URLs.",
                param=param,
            )
        return await self._workers.run(lambda: asyncio.run(self._fetch_all(pictures, max_mb * 1024 * 1024)))

    async def _fetch_all(self, pictures: Mapping[str, str], room: int) -> dict[str, bytes]:
        fetched: dict[str, bytes] = {}
        async with httpcore2.AsyncConnectionPool(
            ssl_context=self._ssl_context, network_backend=self._backend
        ) as pool:
            deadline_s = asyncio.get_running_loop().time() + FETCH_S
            for url, param in pictures.items():
                fetched[url] = await _fetch(pool, url, param, room, deadline_s)
                room -= len(fetched[url])
        return fetched


class _ForbiddenAddressError(Exception):
    """A name or an address that means a machine which is none of the clients' business."""


class _GuardedBackend(httpcore2.AnyIOBackend):
    """Connects to addresses that have been looked at."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        # Threads of their own: a name that nobody answers for holds one for long after it has been given up.
        self._lookups = ThreadPoolExecutor(NUM_LOOKUPS, thread_name_prefix="lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises _ForbiddenAddressError if the name means, whatever else it may mean, what is forbidden."""
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._lookups, look_up)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if not all(is_allowed(ipaddress.ip_address(address), self._networks) for address in addresses):
            raise _ForbiddenAddressError(host)
        for address in addresses[:-1]:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):  # noqa: PERF203 - the next may be better
                continue
        return await super().connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Returns whether an address is one of the public Internet, or of ``networks``."""
    if any(address in network for network in networks):
        return True
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _NEVER):
            return False
        if any(address in network for network in _HOLD_IPV4):
            return is_allowed(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF), networks)
        if address in _LOCAL_NAT64:
            return False
        if address.sixtofour is not None:
            return is_allowed(address.sixtofour, networks)
    return address.is_global and not address.is_multicast


async def _fetch(
    pool: httpcore2.AsyncConnectionPool, url: str, param: str, room: int, deadline_s: float
) -> bytes:
    try:
        with anyio.fail_after(max(0.0, deadline_s - asyncio.get_running_loop().time())):
            return await _follow(pool, httpx2.URL(url.strip()), param, room)
    except _ForbiddenAddressError:
        raise _refusal("is at an address that this server does not fetch from", param) from None
    except httpx2.InvalidURL:
        raise _refusal("is no URL", param) from None
    except (TimeoutError, httpcore2.TimeoutException):
        raise _refusal("takes too long to come", param) from None
    except (OSError, UnicodeError, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise _refusal("cannot be fetched", param) from error


async def _follow(pool: httpcore2.AsyncConnectionPool, url: httpx2.URL, param: str, room: int) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        if url.port is not None and not 0 < url.port < 65536:
            raise _refusal("is no URL", param)
        if url.scheme not in ("http", "https") or not url.host:
            raise _refusal(f"leads to a URL of {url.scheme}: this server fetches by http and https", param)
        async with pool.stream("GET", _plain(url), headers=_HEADERS, extensions=_TIMEOUTS) as response:
            if response.status == 200:
                return await _read(response, param, room)
            headers = {name.lower(): value for name, value in response.headers}
            if response.status not in _REDIRECTS or not headers.get(b"location"):
                raise _refusal(f"cannot be fetched: the answer is {response.status}", param)
            url = url.join(headers[b"location"].decode("latin-1"))
    raise _refusal(f"cannot be fetched: it is redirected more than {MAX_REDIRECTS} times", param)


def _plain(url: httpx2.URL) -> httpcore2.URL:
    """Returns the URL without the name and the password that may stand in it."""
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


async def _read(response: httpcore2.Response, param: str, room: int) -> bytes:
    content = bytearray()
    async for piece in response.aiter_stream():
        content += piece
        if len(content) > room:
            raise _refusal("is too large, or the pictures of this request together are", param)
    return bytes(content)


def _refusal(what: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{param}' {what}. Send the file itself, as a data: URL.", param=param)
