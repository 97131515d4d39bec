"""What may be wrong with this board, and what to do about it: ``gemma3n-appliance check``.

Every check looks at one thing from outside, so that it also tells of a server that does not start.
"""

import http.client
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DownloadError, KeyFileError
from ..settings import Settings
from . import key_file, sensors
from .download import DISK_MARGIN_BYTES, is_on_disk, known_sizes
from .manifest import size_of
from .memory_need import weights_in_memory
from .progress import MB
from .sensors import text_of

L4T_RELEASE = Path("/etc/nv_tegra_release")
BOARD = Path("/proc/device-tree/model")
SYSTEMD = Path("/run/systemd/system")
UNIT = "gemma3n-api.service"

OLDEST_L4T = 36
# No board has been without a clock for longer than this project has existed.
EARLIEST_YEAR = 2026
TOO_HOT_C = 95.0
ANSWER_S = 5.0
PROOF_S = 300.0
# CUDA, torch and activations, beside the weights.
BESIDE_WEIGHTS_MB = 1500


@dataclass(frozen=True)
class Finding:
    """What a check has seen; ``advice`` says what to do where that is not well."""

    text: str
    advice: str | None = None


def examine(settings: Settings, names: Iterable[str] = ()) -> Iterator[tuple[str, Finding]]:
    """Runs the checks of these names, or all, and yields what each finds as soon as it has."""
    for name in names or CHECKS:
        yield name, _found(CHECKS[name], settings)


def _found(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except DownloadError as error:
        return Finding("cannot be looked at", error.message)
    except OSError as error:
        return Finding(f"cannot be looked at: {error}", "run this as root")


def _settings(settings: Settings) -> Finding:
    bits = "" if settings.quantization == "none" else f" in {settings.quantization}"
    return Finding(f"{settings.repo_id}{bits}, port {settings.gemma3n_port}")


def _keys(settings: Settings) -> Finding:
    path = settings.api_keys_file
    if path is None:
        return Finding("none: whoever reaches the port may ask")
    try:
        names = [record.name for record in key_file.read(path)]
    except KeyFileError as error:
        return Finding("cannot be used", error.message)
    if not names:
        return Finding(f"{path} has none", "nobody can ask: gemma3n-appliance key new NAME")
    return Finding(f"{len(names)} in {path}")


def _board(_settings: Settings) -> Finding:
    board = text_of(BOARD).strip("\0\n") or "unknown board"
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text_of(L4T_RELEASE))
    if not found:
        return Finding(f"{board}, no Jetson")
    text = f"{board}, L4T {found[1]}.{found[2]}"
    if int(found[1]) < OLDEST_L4T:
        return Finding(text, "flash JetPack 6 or 7: this one's Python and CUDA are too old for Gemma 3n")
    return Finding(text)


def _clock(_settings: Settings) -> Finding:
    today = time.strftime("%Y-%m-%d")
    if time.localtime().tm_year < EARLIEST_YEAR:
        return Finding(f"it is {today} here", "certificates do not work with that: timedatectl set-ntp true")
    return Finding(today)


def _temperature(_settings: Settings) -> Finding:
    hottest = max((reading.value for reading in sensors.temperatures()), default=None)
    if hottest is None:
        return Finding("not measured here")
    text = f"{hottest:.0f} °C at the hottest"
    if hottest > TOO_HOT_C:
        return Finding(text, "the board slows down: see to its fan, or choose a lower power mode")
    return Finding(text)


def _model(settings: Settings) -> Finding:
    directory = settings.model_dir
    if is_on_disk(settings):
        return Finding(f"{settings.repo_id} is in {directory}; `download --check` compares checksums too")
    if settings.is_local:
        return Finding(f"{directory} holds no model", "set MODEL_NAME to a hub name or a model's folder")
    sizes = known_sizes(settings)
    lacking = f"{', '.join(sizes.lacking)} of it" if sizes and sizes.lacking else "it"
    return Finding(
        f"{settings.repo_id} is not complete in {directory}: {lacking} is missing",
        "gemma3n-appliance download, which says why if it cannot"
        + ("" if settings.hf_token else "; Gemma's repositories want a token, HF_TOKEN"),
    )


def _disk(settings: Settings) -> Finding:
    directory = settings.model_dir
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    text = f"{free / MB:.0f} MB are free in {directory}"
    sizes = None if settings.is_local else known_sizes(settings)
    if sizes and sizes.num_missing and free < sizes.num_missing + DISK_MARGIN_BYTES:
        wanted = (sizes.num_missing + DISK_MARGIN_BYTES) / MB
        return Finding(
            text, f"the model still wants {wanted:.0f} MB: free some, or set MODELS_DIR to a larger disk"
        )
    return Finding(text)


def _memory(settings: Settings) -> Finding:
    found = {reading.name: reading.value / MB for reading in sensors.memory()}
    total, available = found.get("memory_total", 0.0), found.get("memory_available", 0.0)
    on_disk = sum(map(size_of, settings.model_dir.glob("*.safetensors")))
    if not settings.is_local and (sizes := known_sizes(settings)):
        on_disk = sizes.num_bytes
    weights = weights_in_memory(settings, on_disk) / MB
    needed = weights + BESIDE_WEIGHTS_MB
    text = f"{available:.0f} of {total:.0f} MB are free"
    if weights and total < needed:
        fewer_bits = "" if settings.quantization == "int4" else "set QUANTIZATION=int4, "
        advice = (
            f"the model needs {needed:.0f} MB or more: "
            f"{fewer_bits}choose a smaller one, or a board with more memory"
        )
        return Finding(text, advice)
    if weights and available < needed and _health(settings) is None:
        advice = (
            f"the model needs {needed:.0f} MB: end other programs, the desktop first, or restart the board"
        )
        return Finding(text, advice)
    return Finding(text)


def _torch(settings: Settings) -> Finding:
    # By its path: importing the package would import torch before the script can say that it cannot be.
    proof = [sys.executable, "-I", str(Path(__file__).parents[1] / "model" / "proof.py")]
    if settings.device == "cuda" or (settings.device == "auto" and L4T_RELEASE.exists()):
        proof.append("--gpu")
    try:
        done = subprocess.run(proof, capture_output=True, text=True, timeout=PROOF_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Finding("torch hangs", "restart the board; if that does not help, install torch anew")
    if done.returncode == 0:
        return Finding(done.stdout.strip())
    said = (
        done.stdout.strip() or (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    )
    return Finding("torch does not work here", said)


def _server(settings: Settings) -> Finding:
    health = _health(settings)
    if health is None:
        return _unit(settings)
    state, error = health.get("status"), health.get("error")
    if state is None:
        return Finding(
            f"another program answers on port {settings.gemma3n_port}",
            "end it, or set GEMMA3N_PORT to another port",
        )
    queue = health.get("queue", {})
    text = f"{state}, {queue.get('running')} running, {queue.get('waiting')} waiting"
    if state in ("stuck", "dead", "failed"):
        return Finding(f"{text}: {error or ''}", f"journalctl -u {UNIT} says more; systemctl restart {UNIT}")
    return Finding(text)


def _unit(settings: Settings) -> Finding:
    """Why nothing answers on the port, as far as systemd knows."""
    silent = f"nothing answers on port {settings.gemma3n_port}"
    if not SYSTEMD.exists():
        return Finding(silent, "start it: bin/serve")
    properties = ["systemctl", "show", UNIT, "--property=ActiveState,SubState,StatusText,LoadState"]
    shown = subprocess.run(properties, capture_output=True, text=True, check=False).stdout  # noqa: S603
    unit = dict(line.split("=", 1) for line in shown.splitlines())
    if unit.get("LoadState") != "loaded":
        return Finding(f"{silent}, and there is no {UNIT}", "start it: bin/serve, or bin/provision")
    status = f"; its status: {unit['StatusText']}" if unit.get("StatusText") else ""
    text = f"{silent}; {UNIT} is {unit.get('ActiveState')} ({unit.get('SubState')}){status}"
    if unit.get("ActiveState") == "inactive":
        return Finding(text, f"systemctl start {UNIT}")
    return Finding(text, f"wait, if it has just started; else journalctl -u {UNIT} says why")


CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "settings": _settings,
    "keys": _keys,
    "board": _board,
    "clock": _clock,
    "temperature": _temperature,
    "disk": _disk,
    "model": _model,
    "memory": _memory,
    "torch": _torch,
    "server": _server,
}


def _health(settings: Settings) -> dict[str, Any] | None:
    """What answers on the server's port says of itself, whatever the status; None where nothing answers."""
    host = settings.gemma3n_host
    address = "127.0.0.1" if host in ("0.0.0.0", "::", "[::]") else settings.bind.rpartition(":")[0]  # noqa: S104
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        url = f"http://{address}:{settings.gemma3n_port}/health"
        with without_proxy.open(url, timeout=ANSWER_S) as reply:
            body = reply.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except (OSError, http.client.HTTPException):
        return None
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
