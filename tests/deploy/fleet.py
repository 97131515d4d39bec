"""Boards as their owner has them, with a gateway or none, and playbooks that are run over ssh."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai

from tests.deploy.base_root import USER
from tests.deploy.conftest import HUB_PORT, ROOT, TOKEN
from tests.deploy.lab import ROUTER, Lab, Machine

# They ask often, and leave the boards some of the few cores that they share.
PAUSE_S = 3.0
PLAY_TIMEOUT_S = 600
HUB = f"http://{ROUTER}:{HUB_PORT}"
SETTINGS = {"DEVICE": "cpu", "CONTEXT_LENGTH": 2048, "OMP_NUM_THREADS": 1}
VARIABLES = {
    "ansible_user": USER,
    "jetson_host_model_file": "/etc/gemma3n-lab-model",
    # A stand-in has no GPU.
    "gemma3n_runtime_require_gpu": False,
    "gemma3n_model_hub": HUB,
    "gemma3n_service_settings": SETTINGS,
    "gemma3n_service_question": "Where are the logs?",
    "gemma3n_service_answer": "journalctl",
}
SUDO_PASSWORD = "sudo of the lab"
# As `|` in YAML and `echo` leave it, with a line break.
VAULT = {"gemma3n_model_hf_token": f"{TOKEN}\n", "lab_sudo_password": SUDO_PASSWORD}
# So that requests wait at the gateway even where there are few.
GATEWAY_VARIABLES = {"ansible_user": USER, "gemma3n_gateway_requests_per_board": 1}

Played = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Torch:
    """What a stand-in has in place of NVIDIA's torch: that of bin/setup."""

    packages: list[str]
    index: str

    @classmethod
    def found(cls) -> "Torch":
        """As pip here finds it, or else from PyTorch's own index."""
        setup = (ROOT / "bin/setup").read_text()
        known = dict(re.findall(r"^(TORCH|TORCHVISION|CPU_INDEX)=(.*)$", setup, re.MULTILINE))
        packages = [f"torch=={known['TORCH']}+cpu", f"torchvision=={known['TORCHVISION']}"]
        look = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--quiet",
            "--no-deps",
            "--ignore-installed",
        ]
        if subprocess.run([*look, packages[0]], capture_output=True).returncode == 0:
            return cls(packages, "")
        return cls([packages[0].removesuffix("+cpu"), packages[1]], known["CPU_INDEX"])

    @property
    def variables(self) -> dict[str, object]:
        return {"gemma3n_runtime_torch": self.packages, "gemma3n_runtime_torch_index": self.index}

    @property
    def for_pip(self) -> list[str]:
        return [*(["--index-url", self.index] if self.index else []), *self.packages]


@dataclass
class Fleet:
    """Boards, and where there are several, a gateway."""

    directory: Path
    lab: Lab
    boards: list[Machine]
    gateway: Machine | None = None
    torch: Torch | None = None

    def prepare(self, **host_variables: dict[str, object]) -> None:
        """Has Ansible installed, and an inventory and a vault written."""
        subprocess.run([ROOT / "bin/setup-ansible"], check=True)
        self._write_vault()
        self._write_inventory(host_variables)

    def _write_inventory(self, host_variables: dict[str, dict[str, object]]) -> None:
        ssh = {
            "ansible_ssh_private_key_file": str(self.lab.key),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        }
        hosts = {
            board.name: {"ansible_host": board.address} | host_variables.get(board.name, {})
            for board in self.boards
        }
        gateways = {self.gateway.name: {"ansible_host": self.gateway.address}} if self.gateway else {}
        torch = self.torch.variables if self.torch else {}
        inventory = {
            "gemma3n": {"hosts": hosts, "vars": VARIABLES | torch | ssh},
            "gemma3n_gateway": {"hosts": gateways, "vars": GATEWAY_VARIABLES | ssh},
        }
        self.inventory.write_text(json.dumps(inventory))

    def _write_vault(self) -> None:
        """Beside the inventory, as ansible/README.md has it."""
        vault = self.directory / "group_vars/gemma3n/vault.yml"
        vault.parent.mkdir(parents=True)
        vault.write_text(json.dumps(VAULT))
        self.vault_password.write_text("of the vault\n")
        encrypt = [ROOT / ".venv-ansible/bin/ansible-vault", "encrypt", vault]
        subprocess.run([*encrypt, "--vault-password-file", self.vault_password], check=True)

    @property
    def inventory(self) -> Path:
        return self.directory / "inventory.yml"

    @property
    def vault_password(self) -> Path:
        return self.directory / "vault-password"

    def run(self, script: str, *options: str, **variables: object) -> Played:
        """Runs one of bin/'s scripts."""
        if variables:
            options = (*options, "--extra-vars", json.dumps(variables))
        environment = os.environ | {
            "ANSIBLE_INVENTORY": str(self.inventory),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.vault_password),
            "ANSIBLE_NOCOLOR": "1",
        }
        return subprocess.run(
            [ROOT / "bin" / script, *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PLAY_TIMEOUT_S,
        )

    def num_served(self) -> dict[str, int]:
        """How many requests the gateway has sent to each board."""
        told = self.gateway.run("/usr/local/sbin/gemma3n-gateway", "status").splitlines()
        return {line.split()[0]: int(line.split()[-2]) for line in told}


def recap(played: Played) -> dict[str, dict[str, int]]:
    """What Ansible counted, by host."""
    assert "PLAY RECAP" in played.stdout, played.stdout + played.stderr
    lines = [line for line in played.stdout.split("PLAY RECAP")[1].splitlines() if "ok=" in line]
    counted = {line.split(":")[0].strip(): line.split(":")[1].split() for line in lines}
    return {host: {k: int(v) for k, v in (c.split("=") for c in counts)} for host, counts in counted.items()}


def release_of(board: Machine) -> str:
    """The version that a board has in use."""
    return board.run("readlink", "/opt/gemma3n/current").strip().rsplit("/", 1)[1].split("-")[0]


def another_release(directory: Path, version: str, *, broken: bool = False) -> dict[str, str]:
    """Variables that have another version of the project installed."""
    project = directory / version
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if not name.startswith("tests/") and (ROOT / name).exists():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    package = project / "gemma3n_appliance"
    (package / "__init__.py").write_text(f'"""Another."""\n\n__version__ = "{version}"\n')
    if broken:
        with (package / "bootstrap.py").open("a") as file:
            file.write(
                '\n\ndef app() -> Appliance:\n    raise RuntimeError("a release that does not start")\n'
            )
    return {"gemma3n_runtime_project": str(project)}


class Clients:
    """People who ask the gateway again and again, half of them streaming, and note what goes wrong."""

    def __init__(self, gateway: Machine, key: str = "none") -> None:
        self._key = key
        self.num_answered = 0
        self.failures: list[str] = []
        self._url = f"http://{gateway.address}:8000/v1"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(3)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with openai.OpenAI(base_url=self._url, api_key=self._key, max_retries=0, timeout=120) as client:
            while not self._stop.wait(PAUSE_S):
                self._ask_once(client, number)

    def _ask_once(self, client: openai.OpenAI, number: int) -> None:
        try:
            numbers = streamed(client) if number % 2 else counted(client, number)
        except (openai.OpenAIError, httpx2.HTTPError) as error:  # the second where a stream breaks off
            self.failures.append(repr(error))
            return
        if numbers != list(range(numbers[0], numbers[0] + (30 if number % 2 else 6))):
            self.failures.append(f"counted {numbers}")
        self.num_answered += 1


def counted(client: openai.OpenAI, number: int) -> list[int]:
    """Has six numbers counted, and returns them."""
    question = [{"role": "user", "content": f"Count from {number} to {number + 5}."}]
    answer = client.chat.completions.create(model="gemma3n", messages=question, temperature=0)
    return numbers_in(answer.choices[0].message.content or "")


def streamed(client: openai.OpenAI) -> list[int]:
    """Has thirty numbers counted, from 1, and returns them."""
    question = [{"role": "user", "content": "Count from 1 to 30."}]
    stream = client.chat.completions.create(model="gemma3n", messages=question, temperature=0, stream=True)
    return numbers_in("".join(chunk.choices[0].delta.content or "" for chunk in stream))


def numbers_in(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)] or [0]
