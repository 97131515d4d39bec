"""Every option of the appliance: environment variables, typed, bounded, read once and never changed.

A file ``.env`` in the working directory counts as environment that real variables go before, and so do the
credentials that systemd hands a service (systemd.exec(5), LoadCredential): ``hf_token`` is HF_TOKEN.
`.env.example` lists them all; a test compares the two.
"""

import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# The base checkpoint has no chat template, so the short name means the instruction-tuned one. The hub writes
# E4B: in its own spelling, the name means the base checkpoint.
MODEL_ALIASES = {
    "google/gemma-3n-e4b": "google/gemma-3n-E4B-it",
    "google/gemma-3n-e2b": "google/gemma-3n-E2B-it",
}


def _cache_home() -> Path:
    """Where the desktop's convention puts caches, https://specifications.freedesktop.org/basedir-spec."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gemma3n-appliance"


Port = Annotated[int, Field(ge=1, le=65535)]


class SettingsError(Exception):
    """The environment holds a value that cannot be used; the message names the variable and what it takes."""


class Settings(BaseSettings):
    """The environment as the appliance understands it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_file=".env",
        env_file_encoding="utf-8-sig",  # Windows' editors begin a file with a byte order mark
        env_ignore_empty=True,
        protected_namespaces=(),
    )

    model_name: str = Field("google/gemma-3n-e4b", min_length=1)
    model_revision: str = Field("main", min_length=1)
    models_dir: Path = Path("/models")
    hf_token: SecretStr | None = None
    gemma3n_host: str = Field("0.0.0.0", min_length=1)  # noqa: S104 - an appliance serves its network
    gemma3n_port: Port = 8000
    max_length: int = Field(2048, ge=1)
    temperature: float = Field(0.7, ge=0.0, le=2.0)
    accept_any_model: bool = False

    engine: Literal["native", "reference"] = "native"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    quantization: Literal["none", "int8", "int4"] = "none"
    cuda_graphs: bool = True
    cuda_kernels: bool = True
    cache_dir: Path = Field(default_factory=_cache_home, validate_default=True)
    num_slots: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    context_length: Annotated[int, Field(ge=256)] | Literal["auto"] = "auto"
    prefill_chunk: int = Field(512, ge=16)
    max_queue: int = Field(32, ge=0)
    load_wait: float = Field(300.0, ge=0.0)
    step_limit: float = Field(300.0, ge=1.0)

    api_keys_file: Path | None = None
    max_concurrent_per_key: int | None = Field(None, ge=1)
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    max_body_mb: int = Field(32, ge=1)
    allow_remote_media: bool = False
    remote_media_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    max_image_pixels: int = Field(40_000_000, ge=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        # An environment file with Windows' line ends leaves a carriage return behind every value.
        return value.strip() if isinstance(value, str) else value

    @field_validator("hf_token")
    @classmethod
    def _fit_for_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        # What the HTTP library says about a header that it cannot send quotes the header.
        if token and not all("!" <= character <= "~" for character in token.get_secret_value()):
            raise ValueError("holds a space or a character outside ASCII, as no token does: copy it again")
        return token

    @field_validator("cors_origins", "remote_media_networks", mode="before")
    @classmethod
    def _separated(cls, values: object) -> object:
        return tuple(filter(None, re.split(r"[\s,]+", values))) if isinstance(values, str) else values

    @field_validator("cors_origins")
    @classmethod
    def _of_web_pages(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origins != ("*",) and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin such as https://example.org or http://localhost:3000; "
                    "separate several with commas, or write * alone for all"
                )
        return origins

    @field_validator("models_dir", "cache_dir", "api_keys_file")
    @classmethod
    def _in_home(cls, directory: Path | None) -> Path | None:
        try:
            return directory and directory.expanduser()
        except RuntimeError as error:
            raise ValueError(f"{error} Write the whole path") from None

    @field_validator("quantization")
    @classmethod
    def _by_the_native_engine(cls, quantization: str, info: ValidationInfo) -> str:
        if quantization != "none" and info.data.get("engine") == "reference":
            raise ValueError("ENGINE=reference computes with the weights as they are: set ENGINE=native")
        return quantization

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_lower_case(cls, level: object) -> object:
        return level.lower() if isinstance(level, str) else level

    @property
    def repo_id(self) -> str:
        """The hub repository (or local directory) that MODEL_NAME means."""
        return MODEL_ALIASES.get(self.model_name, self.model_name)

    @property
    def model_dir(self) -> Path:
        """Where the model's files are, or will be after a download."""
        if self.is_local:
            return Path(self.model_name).expanduser()
        return self.models_dir / self.repo_id.replace("/", "--")

    @property
    def is_local(self) -> bool:
        """Whether MODEL_NAME is a directory rather than a hub repository."""
        return self.model_name.startswith(("/", "./", "../", "~"))

    @property
    def bind(self) -> str:
        """Host and port as one address; IPv6 in brackets."""
        is_bare_ipv6 = ":" in self.gemma3n_host and not self.gemma3n_host.startswith("[")
        host = f"[{self.gemma3n_host}]" if is_bare_ipv6 else self.gemma3n_host
        return f"{host}:{self.gemma3n_port}"


def load() -> Settings:
    """Reads the environment.

    Raises:
        SettingsError: a variable has a value it cannot take, or ``.env`` cannot be read.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY") or None
    if credentials and not Path(credentials).is_dir():
        raise SettingsError(f"CREDENTIALS_DIRECTORY={credentials!r} is no directory: unset it")
    files = str(Path(".env").absolute()) + (f" or a credential in {credentials}" if credentials else "")
    try:
        return Settings(_secrets_dir=credentials)
    except ValidationError as error:
        problems = "; ".join(_problem(str(e["loc"][0]), e["input"], e["msg"]) for e in error.errors())
        raise SettingsError(f"{problems} (see .env.example)") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{files} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise SettingsError(
            f"cannot read {files} ({error.strerror}): let this user read it, or remove it"
        ) from None


def _problem(name: str, value: object, message: str) -> str:
    is_secret = SecretStr in get_args(Settings.model_fields[name].annotation)
    return f"{name.upper()}: {message}" if is_secret else f"{name.upper()}={value!r}: {message}"
