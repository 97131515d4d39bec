"""Machines to deploy to: real systemd over a Debian root, each with an address of its own.

They stand in for Jetsons: they have a board's identity files and no GPU. Everything that is made here is
undone by ``Lab.down``.
"""

import concurrent.futures
import contextlib
import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy import base_root
from tests.waiting import wait_until

HERE = Path(__file__).parent
# Two labs can be up at the same time, if their numbers and the names of their machines differ.
NUMBER = int(os.environ.get("GEMMA3N_LAB", "0"))
BRIDGES = "gemma3nbr"
BRIDGE = f"{BRIDGES}{NUMBER}"
TABLE = f"gemma3n_lab{NUMBER}"
NETWORK = f"10.77.{3 + NUMBER}"
ROUTER = f"{NETWORK}.1"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
FORWARDING_BEFORE = Path("/run/gemma3n-lab-forwarding")
FORWARDING_LOCK = FORWARDING_BEFORE.with_suffix(".lock")
BOOT_TIMEOUT_S = 60
# Where so much is free, machines write to memory: a disk would take the processor's time for gigabytes of
# wheels.
AMPLE_MEMORY = 12 * 2**30
WRITTEN_GB = 8  # at most; a fleet writes half of it
ORIN_NANO = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
JETPACK_6_2 = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8"
)


def run(*command: str | Path, check: bool = True, timeout_s: float = 120, **options: object) -> str:
    """Runs a command and returns what it says; fails with it."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        **options,
    )
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@dataclass
class Machine:
    """A booted machine."""

    name: str
    address: str
    lab: "Lab"
    binds: list[str]
    boot: subprocess.Popen[bytes] | None = None
    _page_begins: str = ""

    @property
    def root(self) -> Path:
        """Its file system, as seen from here."""
        return self.lab.directory / self.name / "root"

    @property
    def console(self) -> str:
        """What it has printed since it was made."""
        return (self.lab.run_directory / f"{self.name}.log").read_text(errors="replace")

    def run(self, *command: str, check: bool = True, timeout_s: float = 120) -> str:
        """Runs a command inside, past its network."""
        init = self._init_if_any
        assert init is not None, f"{self.name} is not up:\n{self.console}"
        return self._run_beside(init, *command, check=check, timeout_s=timeout_s)

    def _run_beside(self, init: int, *command: str, check: bool, timeout_s: float = 120) -> str:
        enter = ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        return run(*enter, *environment, *command, check=check, timeout_s=timeout_s)

    def shell(self, script: str, check: bool = True, timeout_s: float = 120) -> str:
        """Runs a line of shell inside."""
        return self.run("sh", "-c", script, check=check, timeout_s=timeout_s)

    def property_of(self, unit: str, name: str) -> str:
        """What ``systemctl show`` says of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self, unit: str) -> str:
        """What a unit has logged since ``turn_page``."""
        since = [f"--since={self._page_begins}"] if self._page_begins else []
        return self.run("journalctl", "--no-pager", "--output", "cat", "--unit", unit, *since)

    def turn_page(self) -> None:
        """Has ``journal`` begin here."""
        # Not at a cursor: after another unit's entry, journalctl would leave out the first of a unit.
        self._page_begins = self.run("date", "+@%s.%6N").strip()

    def unplug(self) -> None:
        """Takes its network away."""
        run("ip", "link", "set", f"g-{self.name}", "down")

    def plug_in(self) -> None:
        """Brings its network back."""
        run("ip", "link", "set", f"g-{self.name}", "up")

    def reboot(self) -> None:
        """Reboots it and waits until it is up again."""
        before = self._init_if_any
        self.run("systemctl", "reboot", check=False)
        wait_until(lambda: self._init_if_any not in (None, before), BOOT_TIMEOUT_S)
        self.wait_booted()

    def wait_booted(self) -> None:
        """Waits for systemd and for ssh."""

        def is_booted() -> bool:
            init = self._init_if_any
            if init is None:
                return False
            state = self._run_beside(init, "systemctl", "is-system-running", check=False).strip()
            ssh = self._run_beside(init, "systemctl", "is-active", "ssh", check=False).strip()
            return state in ("running", "degraded", "starting") and ssh == "active"

        wait_until(is_booted, BOOT_TIMEOUT_S)

    @property
    def _init_if_any(self) -> int | None:
        """The process that is number 1 inside, by its number outside."""
        with contextlib.suppress(OSError, ValueError, StopIteration):
            nspawn = int((self.lab.run_directory / f"{self.name}.pid").read_text())
            return next(pid for pid in _descendants(nspawn) if _inner_pid(pid) == 1)
        return None


@dataclass
class Lab:
    """A bridge with machines on it."""

    directory: Path
    key: Path
    machines: list[Machine] = field(default_factory=list)

    @property
    def run_directory(self) -> Path:
        """Where machines' process numbers and consoles are kept."""
        return self.directory / "run"

    def require_room(self) -> None:
        """Fails where another lab with this number is up, or was left behind."""
        is_taken = Path("/sys/class/net", BRIDGE).exists()
        assert not is_taken, (
            f"{BRIDGE} is there: wait for that lab. Of one that was killed, end its systemd-nspawn processes,"
            f" then `ip link del {BRIDGE}`, and `umount -lR` and `rm -rf` its folder in /var/tmp"
        )

    def up(self) -> None:
        """Makes the network, a place for what machines write, and a key to log in with."""
        self.directory.mkdir()
        if _available_memory() > AMPLE_MEMORY:
            run("mount", "-t", "tmpfs", "-o", f"mode=755,size={WRITTEN_GB}g", "tmpfs", self.directory)
        self.run_directory.mkdir()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        with _alone():
            if not FORWARDING_BEFORE.exists():
                FORWARDING_BEFORE.write_text(FORWARDING.read_text())
            run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{ROUTER}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        FORWARDING.write_text("1")
        rule = f"ip saddr {NETWORK}.0/24 ip daddr != {NETWORK}.0/24 masquerade"
        run("nft", f"add table ip {TABLE}")
        run("nft", f"add chain ip {TABLE} out {{ type nat hook postrouting priority 100; }}")
        run("nft", f"add rule ip {TABLE} out {rule}")

    def machine(self, name: str, root: Path, binds: dict[Path, str] | None = None) -> Machine:
        """Boots a machine on a copy of ``root``, which costs nothing; it may read the folders ``binds``."""
        shown = [f"--bind-ro={here}:{there}" for here, there in (binds or {}).items()]
        assert name not in [machine.name for machine in self.machines], f"{name} is there already"
        machine = Machine(name, f"{NETWORK}.{10 + len(self.machines)}", self, shown + base_root.binds(root))
        self.machines.append(machine)
        self._connect(machine)
        self._copy_on_write(machine, root)
        (machine.root / "etc/hostname").write_text(f"{name}\n")
        (machine.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        base_root.admit(machine.root, self.key.with_suffix(".pub"))
        _identify(machine.root)
        self.boot(machine)
        return machine

    def boot(self, machine: Machine) -> None:
        """Switches a machine on."""
        with (self.run_directory / f"{machine.name}.log").open("ab") as log:
            machine.boot = subprocess.Popen(
                [HERE / "boot", machine.name, machine.root, self.run_directory, *machine.binds],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        machine.wait_booted()

    def remove(self, machine: Machine) -> None:
        """Switches a machine off and forgets it."""
        if machine.boot:
            for pid in list(_descendants(machine.boot.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            machine.boot.wait()
        run("umount", "--lazy", machine.root, check=False)
        # Not left to the namespace, which lives as long as its last process.
        run("ip", "link", "del", f"g-{machine.name}", check=False)
        run("ip", "netns", "del", machine.name, check=False)
        _remove_cgroups(machine.name)
        run("rm", "-rf", self.directory / machine.name, check=False)

    def down(self) -> None:
        """Removes the machines, what they have written, and the network."""
        with concurrent.futures.ThreadPoolExecutor() as at_once:
            list(at_once.map(self.remove, self.machines))
        run("umount", "--lazy", self.directory, check=False)
        run("rm", "-rf", self.directory, check=False)
        run("nft", f"delete table ip {TABLE}", check=False)
        with _alone():
            run("ip", "link", "del", BRIDGE, check=False)
            is_last = not list(Path("/sys/class/net").glob(f"{BRIDGES}*"))
            if is_last and FORWARDING_BEFORE.exists():
                FORWARDING.write_text(FORWARDING_BEFORE.read_text())
                FORWARDING_BEFORE.unlink()

    def _connect(self, machine: Machine) -> None:
        name, link = machine.name, f"g-{machine.name}"
        outside = run("ip", "-o", "route", "show", "default").split()
        mtu = Path(f"/sys/class/net/{outside[outside.index('dev') + 1]}/mtu").read_text().strip()
        for what in (("netns", name), ("link", link)):  # of tests that were killed
            run("ip", what[0], "del", what[1], check=False)
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "mtu", mtu, "type", "veth", "peer", "name", "host0", "netns", name)
        run("ip", "link", "set", link, "master", BRIDGE, "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "addr", "add", f"{machine.address}/24", "dev", "host0")
        run("ip", "-n", name, "link", "set", "host0", "mtu", mtu, "up")
        run("ip", "-n", name, "route", "add", "default", "via", ROUTER)

    def _copy_on_write(self, machine: Machine, root: Path) -> None:
        upper, work = (self.directory / machine.name / part for part in ("upper", "work"))
        for directory in (upper, work, machine.root):
            directory.mkdir(parents=True)
        layers = f"lowerdir={root},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, machine.root)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keeps another lab from coming up or going down meanwhile."""
    with FORWARDING_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _available_memory() -> int:
    [found] = re.findall(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    limits = [Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    told = [path.read_text().strip() for path in limits if path.exists()]
    return min([int(found) * 1024, *(int(limit) for limit in told if limit != "max")])


def _identify(root: Path) -> None:
    """Gives the machine a board's identity, in files that stand in for the device tree."""
    (root / "etc/nv_tegra_release").write_text(JETPACK_6_2 + "\n")
    (root / "etc/gemma3n-lab-model").write_bytes(ORIN_NANO.encode() + b"\0")


def _descendants(pid: int) -> Iterator[int]:
    """A process and its offspring; while a machine boots, some of nspawn's end as they are being read."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        offspring = []
        with contextlib.suppress(OSError):
            offspring = children.read_text().split()
        for child in offspring:
            yield from _descendants(int(child))


def _inner_pid(pid: int) -> int | None:
    """The process's number in its own namespace, where it has one."""
    with contextlib.suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return int(numbers[-1]) if len(numbers) > 1 else None
    return None


def _remove_cgroups(name: str) -> None:
    def are_gone() -> bool:
        try:
            tops = list(Path("/sys/fs/cgroup").rglob(f"gemma3n-{name}"))
        except FileNotFoundError:  # another machine's went meanwhile
            return False
        for top in tops:
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # its last process is still on its way out
                    Path(directory).rmdir()
        return not tops

    wait_until(are_gone, BOOT_TIMEOUT_S)
