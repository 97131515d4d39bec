"""Every error this package raises on purpose, and what each looks like on the wire.

ApplianceError                      500 server_error
├── InvalidRequestError             400 invalid_request_error
│   ├── UnsupportedParameterError   400 unsupported_parameter
│   ├── GrammarError                400 invalid_grammar
│   ├── ContextLengthError          400 context_length_exceeded
│   ├── ModelNotFoundError          404 model_not_found
│   ├── BodyTooLargeError           413 request_too_large
│   └── InvalidKeyError             401 invalid_api_key
├── OverloadedError                 429 server_overloaded      (Retry-After)
├── NotReadyError                   503 model_not_ready        (Retry-After)
├── ShuttingDownError               503 shutting_down          (Connection: close)
├── InsufficientMemoryError         503 insufficient_memory
├── EngineError                     500 engine_error
├── ModelLoadError                  503 model_load_failed
├── DownloadError                   503 model_download_failed
└── KeyFileError                    never sent: API_KEYS_FILE cannot be used

Messages are written for whoever sent the request (or started the program): what is wrong, and what to do.
"""

import copy
from typing import ClassVar


class ApplianceError(Exception):
    """Base of all; ``message`` is safe to show to a client."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def anew(self) -> "ApplianceError":
        """Returns the same error to raise once more: a raised one keeps alive all that its traceback saw."""
        return copy.copy(self)


class InvalidRequestError(ApplianceError):
    """The request is malformed or out of range; ``param`` is a path such as ``messages[2].content``."""

    status = 400
    type = "invalid_request_error"


class UnsupportedParameterError(InvalidRequestError):
    """The request asks for something this server does not do."""

    code = "unsupported_parameter"


class GrammarError(InvalidRequestError):
    """A grammar or schema is not valid, or more than can be kept to."""

    code = "invalid_grammar"


class ContextLengthError(InvalidRequestError):
    """The prompt, or the prompt and the tokens asked for, exceed the context."""

    code = "context_length_exceeded"


class ModelNotFoundError(InvalidRequestError):
    """No model of that name is served."""

    status = 404
    code = "model_not_found"


class BodyTooLargeError(InvalidRequestError):
    """The body exceeds MAX_BODY_MB."""

    status = 413
    code = "request_too_large"


class InvalidKeyError(InvalidRequestError):
    """The request has no API key, or one that there is not."""

    status = 401
    code = "invalid_api_key"


class OverloadedError(ApplianceError):
    """The queue is full, or a key has as many requests as it may."""

    status = 429
    type = "rate_limit_error"
    code = "server_overloaded"


class NotReadyError(ApplianceError):
    """The model is still loading."""

    status = 503
    code = "model_not_ready"


class ShuttingDownError(ApplianceError):
    """The server finishes what runs and takes nothing new."""

    status = 503
    code = "shutting_down"

    def __init__(self, message: str = "The server is shutting down. Send the request again later.") -> None:
        super().__init__(message)


class InsufficientMemoryError(ApplianceError):
    """The device has not enough memory for this request; the engine lives on."""

    status = 503
    code = "insufficient_memory"


class EngineError(ApplianceError):
    """The engine failed while it worked on this request."""

    code = "engine_error"


class ModelLoadError(ApplianceError):
    """The model's files cannot be loaded."""

    status = 503
    code = "model_load_failed"


class DownloadError(ApplianceError):
    """The model's files cannot be fetched or are not intact."""

    status = 503
    code = "model_download_failed"


class KeyFileError(ApplianceError):
    """The file with the API keys cannot be read or written."""
