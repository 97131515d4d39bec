"""The root that machines are copies of: a small Debian, with this machine's own way to the registries."""

import ast
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "sudo", "procps", "iproute2", "openssh-server"),
    *("python3", "python3-venv", "python3-apt", "python3-packaging", "ca-certificates", "curl", "rsync"),
)
REMEMBERED_CODE = Path(__file__).with_name("remembered_code.py")
REMEMBERED_IN = "/var/cache/remembered-code"
# Whom a Jetson is set up with, and with a sudo that asks for nothing.
USER = "nvidia"
UNWANTED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


def cached(cache: Path) -> Path:
    """Returns the root, building it (a minute) where the cache does not have it."""
    root = cache / f"root-{_fingerprint()}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one builds, another lab waits for it
        if not (root / "etc/machine-id").exists():
            shutil.rmtree(root, ignore_errors=True)
            partial = root.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _build(partial)
            partial.rename(root)
            for other in {*cache.glob("root-*"), *cache.glob("compiled-*")} - {root}:
                shutil.rmtree(other, ignore_errors=True)
    return root


def admit(root: Path, public_key: Path) -> None:
    """Lets the key's owner log in as a user who may become root, and pip find what it finds here."""
    (root / "etc/pip.conf").write_text(_pip_conf())
    ssh = root / "home" / USER / ".ssh"
    ssh.mkdir(mode=0o700)
    shutil.copy(public_key, ssh / "authorized_keys")
    subprocess.run(["chroot", root, "chown", "-R", USER, f"/home/{USER}/.ssh"], check=True)


def have_sudo_ask(root: Path, password: str) -> None:
    """Has the user type a password to become root."""
    (root / "etc/sudoers.d/lab").write_text(f"{USER} ALL=(ALL) ALL\n")
    subprocess.run(["chroot", root, "chpasswd"], input=f"{USER}:{password}\n", text=True, check=True)
    without = subprocess.run(
        ["chroot", root, "runuser", "-u", USER, "--", "sudo", "-n", "true"], stderr=subprocess.PIPE
    )
    assert b"password is required" in without.stderr


def binds(root: Path) -> list[str]:
    """nspawn's options for what copies of ``root`` share.

    That is what their Pythons have compiled, and the local folders that pip's settings here name.
    """
    compiled = root.with_name(f"compiled-for-{root.name}")
    compiled.mkdir(exist_ok=True)
    compiled.chmod(0o1777)  # whoever logs in runs Ansible's modules too
    named = re.findall(r"(?:file://)?(/[^\s'\"=]+)", _pip_settings())
    folders = {re.sub(r"/simple/?$", "", name) for name in named}
    wheels = [f"--bind-ro={name}" for name in sorted(folders) if Path(name).is_dir() and "/etc/" not in name]
    return [f"--bind={compiled}:{REMEMBERED_IN}", *wheels]


def _build(root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    lists = Path("/etc/apt/sources.list.d")
    sources = [lists / "debian.sources", lists / "ubuntu.sources", Path("/etc/apt/sources.list")]
    options = [f"--aptopt={line.rstrip(';')}" for line in _apt_settings()]
    options += [f"--dpkgopt=path-exclude={path}" for path in UNWANTED] + ["--dpkgopt=force-unsafe-io"]
    [codename] = re.findall(r"^VERSION_CODENAME=(.*)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    bootstrap = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", f"--include={','.join(PACKAGES)}"]
    source = next(path for path in sources if path.exists())
    subprocess.run([*bootstrap, *options, codename, root, source], check=True)
    _furnish(root)


def _furnish(root: Path) -> None:
    for certificate in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy(certificate, root / "usr/local/share/ca-certificates")
    subprocess.run(["chroot", root, "update-ca-certificates"], check=True, capture_output=True)
    (root / "etc/apt/apt.conf.d/90host").write_text("".join(f"{line}\n" for line in _apt_settings()))
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    (root / "etc/environment").write_text("".join(f"{name}={value}\n" for name, value in proxies.items()))
    (root / "etc/ssh/sshd_config.d/lab.conf").write_text("UseDNS no\nPermitRootLogin no\n")
    subprocess.run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", USER], check=True)
    (root / "etc/sudoers.d/lab").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    subprocess.run(["ssh-keygen", "-A", "-f", root], check=True, capture_output=True)
    # apt must not believe that its empty lists are fresh.
    os.utime(root / "var/lib/apt/lists", (0, 0))
    (root / "var/log/journal").mkdir(exist_ok=True)
    # Every Python imports this at its start, those of virtual environments too.
    [customize] = root.glob("etc/python3.*/sitecustomize.py")
    customize.write_text(f"{REMEMBERED_CODE.read_text()}\n\nremember_in({REMEMBERED_IN!r})\n")
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        subprocess.run(["systemctl", f"--root={root}", "disable", unit], capture_output=True)
    (root / "etc/machine-id").write_text("")


def _fingerprint() -> str:
    """A name for everything that makes the root what it is."""
    here = Path("/etc/os-release").read_text() + "".join(_apt_settings())
    files = Path(__file__).read_text() + REMEMBERED_CODE.read_text()
    return hashlib.sha256((here + files).encode()).hexdigest()[:12]


def _apt_settings() -> list[str]:
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    return re.findall(r"^(Acquire::(?:Check-|https?::|Retries).*)$", dump, re.MULTILINE)


@functools.cache
def _pip_settings() -> str:
    listed = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True)
    return listed.stdout


def _pip_conf() -> str:
    """The settings that pip has here, as a file for there."""
    # Compiling every module takes longer than installing them; root compiles what it imports.
    # "no" is how pip's files say --no-compile.
    settings = {"disable-pip-version-check": "true", "no-compile": "no"}
    for line in _pip_settings().splitlines():
        key, value = line.split("=", 1)
        if key.startswith(("global.", ":env:.")) and "constraint" not in key:
            settings[key.rsplit(".", 1)[1]] = ast.literal_eval(value).replace("\n", "\n    ")
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
