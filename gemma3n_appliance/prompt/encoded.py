"""Media as they come: base64 text in a request."""

import base64
import binascii

from ..errors import InvalidRequestError

_ELSEWHERE = ("http:", "https:", "ftp:")


def from_data_url(url: str, param: str) -> bytes:
    """Returns what a base64 data URL holds.

    Raises:
        InvalidRequestError: any other URL, a path, or broken base64.
    """
    if url[:8].lower().startswith(_ELSEWHERE):
        raise InvalidRequestError(
            "This server does not fetch media: send the file itself as a data: URL, "
            "such as data:image/png;base64,....",
            param=param,
        )
    head, comma, data = url.partition(",")
    if not comma or not head[:5].lower() == "data:" or not head.lower().endswith(";base64"):
        raise InvalidRequestError(
            f"'{param}' must be a base64 data: URL, such as data:image/png;base64,....", param=param
        )
    return from_base64(data, param)


def from_base64(data: str, param: str) -> bytes:
    """Returns the bytes; line breaks are allowed.

    Raises:
        InvalidRequestError: broken base64, or nothing in it.
    """
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(f"'{param}' is not valid base64.", param=param) from None
    if not content:
        raise InvalidRequestError(f"'{param}' holds 0 bytes.", param=param)
    return content
