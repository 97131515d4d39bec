"""Media as they come: base64 text in a request."""

import base64
import binascii

from ..errors import InvalidRequestError

_ELSEWHERE = ("http:", "https:", "ftp:")

# What URL encoders make of base64. Only these: decoding any other would take a list as long as the text.
_PERCENT_ENCODED = {"%2B": "+", "%2F": "/", "%3D": "=", "%20": "", "%0A": "", "%0D": ""}
_FROM_BASE64URL = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\v\f"


def from_data_url(url: str, param: str) -> bytes:
    """Returns what a base64 data URL holds.

    Raises:
        InvalidRequestError: any other URL, a path, or broken base64.
    """
    url = url.lstrip()
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
    for code, character in _PERCENT_ENCODED.items() if "%" in data else ():
        data = data.replace(code, character).replace(code.lower(), character)
    return from_base64(data, param)


def from_base64(data: str, param: str) -> bytes:
    """Returns the bytes; line breaks, the URL alphabet and missing padding are allowed.

    Raises:
        InvalidRequestError: broken base64, or nothing in it.
    """
    try:
        digits = data.encode("ascii").translate(_FROM_BASE64URL, _WHITE_SPACE)
        content = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(f"'{param}' is not valid base64.", param=param) from None
    if not content:
        raise InvalidRequestError(f"'{param}' holds 0 bytes.", param=param)
    return content
