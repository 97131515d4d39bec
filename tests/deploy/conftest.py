import os
import re
import shutil
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.deploy import base_root
from tests.deploy.lab import ROUTER, Lab, Machine
from tests.fakes.hub import FakeHub, Repo

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "gemma3n_appliance/demo/checkpoint_files"
MODEL = "google/gemma-3n-E4B-it"
TOKEN = "hf_of_the_lab"
HUB_PORT = 8199
NEEDED = ("systemd-nspawn", "mmdebstrap", "nft", "ip", "ssh-keygen", "openssl", "rsync")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that leave a board changed come last, by their places, in whatever order the others are."""

    def place(item: pytest.Item) -> int:
        marker = item.get_closest_marker("last")
        return marker.args[0] if marker else 0

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    if missing := [tool for tool in NEEDED if not shutil.which(tool)]:
        cannot_test(f"NO MACHINE CAN BE BOOTED without {', '.join(missing)}: run bin/test-deploy")
    if os.geteuid():
        cannot_test("NO MACHINE CAN BE BOOTED without root: run bin/test-deploy as root")


def cannot_test(reason: str) -> None:
    """Skips, but not where nothing may be left out."""
    (pytest.fail if os.environ.get("GEMMA3N_CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The network. Not under /tmp, which may be in memory, however little there is."""
    directory = Path("/var/tmp") / f"gemma3n-lab-{os.getpid()}"
    lab = Lab(directory, directory / "key")
    lab.require_room()
    signal.signal(signal.SIGTERM, _interrupt)  # for what is below
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def cache() -> Path:
    """Where what takes long to make is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gemma3n-appliance/deploy"


@pytest.fixture(scope="session")
def base() -> Path:
    """The root that machines are copies of."""
    return base_root.cached(cache())


def checkpoint_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in CHECKPOINT.iterdir()}


class Hub:
    """The hub's stand-in where the machines find it; it can go away and come back."""

    def __init__(self) -> None:
        self.is_up = False
        self.come_back()

    def come_back(self) -> None:
        self.fake = FakeHub(ROUTER, HUB_PORT)
        self.fake.repos[MODEL] = Repo(is_gated=True, readers={TOKEN})
        self.fake.repos[MODEL].commit(checkpoint_files())
        self.fake.valid_tokens.add(TOKEN)
        self.fake.__enter__()
        self.is_up = True

    def go_away(self) -> None:
        if self.is_up:
            self.fake.__exit__()
        self.is_up = False


@pytest.fixture(scope="session")
def hub(lab: Lab) -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.go_away()


def readme_script(*steps: int) -> str:
    """What systemd/README.md tells people to type."""
    steps_and_code = r"^\*\*(\d)\.((?!^\*\*\d).)*?^```sh\n(.*?)^```"
    blocks = re.findall(steps_and_code, (ROOT / "systemd/README.md").read_text(), re.MULTILINE | re.DOTALL)
    typed = {int(step): block for step, _, block in blocks}
    return "set -e\ncd /src\n" + "".join(typed[step] for step in steps)


def boot(lab: Lab, base: Path, name: str) -> Machine:
    """A machine that sees the project in /src, and in /runtime the packages that a release needs."""
    machine = lab.machine(name, base, {ROOT: "/src", Path(sysconfig.get_path("purelib")): "/runtime"})
    python = machine.shell("python3 -c 'import sys; print(*sys.version_info[:2])'").split()
    if python != [str(part) for part in sys.version_info[:2]]:
        cannot_test(f"NO MACHINE TESTED: .venv must have the system's own Python, {'.'.join(python)}")
    return machine


def install_release(machine: Machine) -> None:
    """As README's first step, but that torch and the rest are read from here instead of downloaded."""
    machine.shell(
        """
        release=/opt/gemma3n/releases/0.1.0
        python3 -m venv --without-pip $release
        packages=$(echo $release/lib/python3*/site-packages)
        echo /runtime >$packages/runtime.pth
        cp -r /src/gemma3n_appliance $packages
        $release/bin/python -m compileall -q $packages/gemma3n_appliance  # as pip does
        cat >$release/bin/gemma3n-appliance <<END
#!$release/bin/python
import sys
from gemma3n_appliance.cli import main
sys.exit(main())
END
        chmod 755 $release/bin/gemma3n-appliance
        ln -sfn $release /opt/gemma3n/current
        """
    )


def ask(machine: Machine, question: str, **options: object) -> str:
    """What the machine's server answers, from outside."""
    with openai.OpenAI(
        base_url=f"http://{machine.address}:8000/v1", api_key="none", max_retries=0, timeout=60
    ) as client:
        answer = client.chat.completions.create(
            model="gemma3n", messages=[{"role": "user", "content": question}], temperature=0, **options
        )
    return answer.choices[0].message.content or ""
