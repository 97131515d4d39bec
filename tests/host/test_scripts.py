"""The scripts in bin/, copied to a place where they find stand-ins for what they call."""

import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pip
import pytest

from tests.host.appliance import ROOT

PIP = tuple(int(part) for part in pip.__version__.split(".")[:2])

# A Python, and those of the .venv it makes; what is installed, and what does not work, are files beside bin/.
PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
    "-m ensurepip"*) [ ! -e no-ensurepip ] && touch .venv/pip ;;
    *ensurepip*) [ ! -e no-ensurepip ] ;;
    "-m venv"*) for venv; do :; done; mkdir -p "$venv/bin"; cp "$0" "$venv/bin/python"; touch "$venv/pip" ;;
    *"-m pip"*--version) [ -e .venv/pip ] ;;
    *"torch.cuda"*) [ -e .venv/torch ] && [ ! -e no-gpu ] ;;
    *"import torch"*) [ -e .venv/torch ] ;;
    *'version("torchvision")'*) [ -e .venv/torchvision ] ;;
    *"-m pip"*install*torchvision==*) [ ! -e no-torchvision ] && touch .venv/torchvision ;;
    *"-m pip"*install*torch==*) touch .venv/torch ;;
    *"-m pip"*install*) ;;
    *"-m uv"*) [ -e has-uv ] ;;
    *"import gemma3n_appliance"*) ;;
    *version_info*) echo 3.11 ;;
    *) exit 1 ;;
esac
"""

# Answers one question, if it comes, and ends.
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
print("TEMPERATURE=" + os.environ["TEMPERATURE"], flush=True)
server = http.server.HTTPServer((os.environ["GEMMA3N_HOST"], int(os.environ["GEMMA3N_PORT"])), Handler)
server.timeout = 10
server.handle_request()
"""


class Tree:
    """A checkout of the scripts alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(ROOT / "bin", path / "bin")
        for python in ("python3", "python3.10", "python3.11", "python3.12"):
            self.script(f"path/{python}", PYTHON)
        self.script("system-python", PYTHON)
        self.write("pyproject.toml", "")
        for version in ("3.10", "3.11", "3.12"):
            self.write(f"requirements/python{version}.txt", "")
            self.write(f"requirements/dev-python{version}.txt", "")
        setup = (path / "bin/setup").read_text()
        setup = setup.replace("/etc/nv_tegra_release", "tegra-release")
        self.script("bin/setup", setup.replace("/usr/bin/python3", "./system-python"))

    def write(self, name: str, text: str = "") -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def script(self, name: str, text: str) -> None:
        self.write(name, text)
        (self.path / name).chmod(0o755)

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    @property
    def calls(self) -> str:
        return (self.path / "calls").read_text()

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.path / "bin" / script],
            cwd=self.path,
            env={"PATH": f"{self.path}/path:{os.environ['PATH']}", "HOME": str(self.path)} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_setup_makes_an_environment_once(tree: Tree):
    assert tree.run("setup").returncode == 0
    assert all(tree.has(f".venv/{name}") for name in ("torch", "torchvision", "stamp"))
    tree.write("calls")
    assert tree.run("setup").returncode == 0
    assert "install" not in tree.calls


@pytest.mark.parametrize(("has_uv", "by_pip"), [(True, False), (False, True)])
def test_pins_are_installed_with_pip_where_uv_cannot(tree: Tree, has_uv: bool, by_pip: bool):
    if has_uv:
        tree.write("has-uv")
    assert tree.run("setup").returncode == 0
    [by_uv] = re.findall(r"^-m uv .* --requirement requirements/python3.11.txt$", tree.calls, re.MULTILINE)
    assert "--no-deps" in by_uv
    assert ("--no-deps --requirement requirements/python3.11.txt" in tree.calls.replace(by_uv, "")) is by_pip


def test_setup_installs_a_torchvision_that_a_run_before_left_out(tree: Tree):
    tree.write("no-torchvision")
    assert tree.run("setup").returncode != 0
    assert tree.has(".venv/torch")
    assert not tree.has(".venv/stamp")
    (tree.path / "no-torchvision").unlink()
    assert tree.run("setup").returncode == 0
    assert tree.has(".venv/torchvision")


def test_setup_gives_pip_to_an_environment_that_has_none_and_removes_nothing(tree: Tree):
    tree.script(".venv/bin/python", PYTHON)
    tree.write(".venv/somebodys")
    tree.write("no-ensurepip")
    failed = tree.run("setup")
    assert failed.returncode == 1
    assert "install python3-venv" in failed.stderr
    (tree.path / "no-ensurepip").unlink()
    assert tree.run("setup").returncode == 0
    assert tree.has(".venv/pip")
    assert tree.has(".venv/somebodys")


def test_setup_wants_a_python_that_can_make_environments_with_pip(tree: Tree):
    tree.write("no-ensurepip")
    failed = tree.run("setup")
    assert failed.returncode == 1
    assert "apt install python3-venv" in failed.stderr
    assert not tree.has(".venv")


@pytest.mark.parametrize(
    ("release", "advice"),
    [
        (
            "R36 (release), REVISION: 4.3",
            "--index-url https://pypi.jetson-ai-lab.io/jp6/cu126 torch torchvision",
        ),
        (
            "R38 (release), REVISION: 2.0",
            "--index-url https://download.pytorch.org/whl/cu130 torch torchvision",
        ),
        ("R35 (release), REVISION: 4.1", "needs JetPack 6 or 7"),
    ],
)
def test_setup_leaves_torch_on_a_jetson_to_nvidia(tree: Tree, release: str, advice: str):
    tree.write("tegra-release", f"# {release}, GCID: 1\n# KERNEL_VARIANT: oot\n")
    failed = tree.run("setup")
    assert failed.returncode == 1
    assert advice in failed.stderr
    assert "-m venv --system-site-packages .venv" in tree.calls
    assert "install" not in tree.calls
    assert "making .venv with ./system-python" in failed.stdout


def test_setup_does_not_take_a_torch_that_misses_a_jetsons_gpu(tree: Tree):
    tree.write("tegra-release", "# R36 (release), REVISION: 4.3\n")
    tree.write(".venv/torch")
    tree.write(".venv/torchvision")
    tree.write("no-gpu")
    tree.script(".venv/bin/python", PYTHON)
    tree.write(".venv/pip")
    failed = tree.run("setup")
    assert failed.returncode == 1
    assert "find its GPU" in failed.stderr


def test_setup_takes_the_torch_that_a_jetson_has(tree: Tree):
    tree.write("tegra-release", "# R36 (release), REVISION: 4.3\n")
    tree.write(".venv/torch")
    tree.write(".venv/torchvision")
    tree.script(".venv/bin/python", PYTHON)
    tree.write(".venv/pip")
    assert tree.run("setup").returncode == 0
    assert "torch==" not in tree.calls


@pytest.fixture
def demo(tree: Tree) -> Tree:
    """Has the real Python, and a server that is not the appliance."""
    tree.script("bin/setup", "#!/bin/sh\n")
    tree.script(".venv/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    tree.script(".venv/bin/gemma3n-appliance", f"#!{sys.executable}\n{SERVER}")
    return tree


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1")]
)
def test_the_demo_is_announced_where_it_listens(demo: Tree, host: str, shown: str):
    with socket.create_server((host, 0)) as free:
        port = str(free.getsockname()[1])
    done = demo.run("demo", GEMMA3N_HOST=host, GEMMA3N_PORT=port, http_proxy="http://127.0.0.1:9")
    assert done.stdout.startswith(
        f"TEMPERATURE=0\n\nThe demo answers on http://{shown}:{port}. Ask it something:\n"
    )


def test_the_demo_does_not_announce_another_server(demo: Tree):
    with socket.create_server(("127.0.0.1", 0)) as other:
        failed = demo.run("demo", GEMMA3N_PORT=str(other.getsockname()[1]))
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert re.search(
        r"cannot listen on 127\.0\.0\.1 port \d+ .* try: GEMMA3N_PORT=9000 bin/demo", failed.stderr
    )


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ("Requires-Dist: torch\nRequires-Dist: beta>=1", None),
        ("Requires-Dist: beta>=2", "alpha needs beta>=2, pinned is 1.0"),
        ('Requires-Dist: gamma; python_version < "3.11"', "pinned is nothing"),
        ('Requires-Dist: gamma; python_version < "3.10" or extra == "all"', None),
        ("Requires-Dist: beta[fast]", "beta[fast] needs gamma"),
        ("Requires-Python: >=3.11", "alpha 1.0 needs Python >=3.11"),
    ],
)
@pytest.mark.skipif(PIP < (22, 2), reason="this pip cannot report what it would install")
def test_pins_that_do_not_agree_on_a_jetson_are_named(demo: Tree, metadata: str, fault: str | None):
    wheel(demo.path / "wheels", "alpha", metadata)
    wheel(demo.path / "wheels", "beta", 'Provides-Extra: fast\nRequires-Dist: gamma; extra == "fast"')
    demo.write("pyproject.toml", '[project]\ndependencies = [\n    "alpha>=1",\n]\n')
    for version in ("3.10", "3.12"):
        demo.write(f"requirements/python{version}.txt", "alpha==1.0\nbeta==1.0\n")
    checked = demo.run("check-wheels", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(demo.path / "wheels"))
    if fault is None:
        assert checked.returncode == 0, checked.stderr
        assert "aarch64 wheels for Python 3.12: all 2 there, and they agree" in checked.stdout
    else:
        assert checked.returncode == 1
        assert fault in checked.stderr


def wheel(directory: Path, name: str, metadata: str) -> None:
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as file:
        info = f"{name}-1.0.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
