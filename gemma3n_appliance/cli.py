"""The command line, ``gemma3n-appliance download | warm | serve | check | key``; `settings` has the rest."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import ApplianceError, KeyFileError
from .host import diagnosis, key_file, systemd
from .host.download import check_model, ensure_model, mend_model
from .host.progress import Progress, ProgressBar, ProgressLines
from .settings import Settings, SettingsError, load

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
WRITTEN_BY_ANSIBLE = "# Written by Ansible"

Command = Callable[[Settings, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the process's exit code; messages about failures go to stderr."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(load(), options)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    except ApplianceError as error:
        return _fail(error.message, EXIT_FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gemma3n-appliance", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    download = commands.add_parser("download", help="fetch the model's files into MODELS_DIR")
    download.add_argument(
        "--check", action="store_true", help="verify the files on disk, without the network"
    )
    download.set_defaults(command=_download)

    warm = commands.add_parser("warm", help="make the model's files complete, intact and quick to read")
    warm.set_defaults(command=_warm)

    serve = commands.add_parser("serve", help="start the server")
    serve.set_defaults(command=_serve)

    check = commands.add_parser("check", help="say what is wrong with this board, and what to do about it")
    check.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"all, or some of {', '.join(diagnosis.CHECKS)}"
    )
    check.set_defaults(command=_examine)

    key = commands.add_parser("key", help="make, list and revoke API keys; the server notices by itself")
    _add_key_commands(key.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _add_key_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    new = commands.add_parser("new", help="make a key, and show it: this once")
    new.add_argument("name", help="whom it is for, such as laptop")
    new.add_argument("--max-concurrent", type=_limit, metavar="N", help="requests that may run at once")
    new.add_argument("--max-body-mb", type=_limit, metavar="MB", help="largest request body")
    new.set_defaults(command=_new_key)

    listed = commands.add_parser("list", help="show the keys' names and limits")
    listed.set_defaults(command=_list_keys)

    revoke = commands.add_parser("revoke", help="take a key back")
    revoke.add_argument("name")
    revoke.set_defaults(command=_revoke_key)


def _download(settings: Settings, options: argparse.Namespace) -> int:
    if options.check:
        return _check(settings)
    if settings.is_local:
        print(f"{settings.model_dir} is a directory of your own: there is nothing to download")
        return 0
    directory = ensure_model(settings, _progress())
    print(f"{settings.repo_id} is complete in {directory}")
    return 0


def _check(settings: Settings) -> int:
    is_intact = True
    for fault in check_model(settings, _progress()):
        print(fault)
        is_intact = False
    if not is_intact:
        advice = "remove the corrupt files and run `gemma3n-appliance download` to fetch what is missing"
        return _fail(f"{settings.model_dir} is not intact: {advice}", EXIT_FAILED)
    print(f"{settings.model_dir} is intact")
    return 0


def _warm(settings: Settings, _options: argparse.Namespace) -> int:
    """What gemma3n-cache-warm.service runs; systemd shows the last line as the unit's status."""
    directory = mend_model(settings, _progress())
    _tell(f"{settings.repo_id} is complete and intact in {directory}")
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
    systemd.notify(systemd.status(line))


def _serve(settings: Settings, _options: argparse.Namespace) -> int:
    if settings.api_keys_file:
        key_file.read(settings.api_keys_file)  # here it can still be told in a line what is wrong
    # Becomes gunicorn rather than starting it, so that signals and systemd's watch reach the server itself.
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:gemma3n_appliance.gunicorn_conf"]
    os.execv(sys.executable, gunicorn)  # noqa: S606 - every argument is ours


def _examine(settings: Settings, options: argparse.Namespace) -> int:
    if unknown := set(options.subjects) - set(diagnosis.CHECKS):
        return _fail(f"cannot check {', '.join(sorted(unknown))}: see --help", EXIT_USAGE)
    is_well = True
    for subject, finding in diagnosis.examine(settings, options.subjects):
        is_well = is_well and not finding.advice
        print(f"{'FAULT' if finding.advice else 'ok':6}{subject:12} {finding.text}")
        if finding.advice:
            print(f"{'':18} → {finding.advice}")
    return 0 if is_well else EXIT_FAILED


def _new_key(settings: Settings, options: argparse.Namespace) -> int:
    path = _keys_file(settings)
    key = key_file.add(
        path, options.name, max_concurrent=options.max_concurrent, max_body_mb=options.max_body_mb
    )
    print(f"{options.name} is in {path}. This is its key, which is kept nowhere:", file=sys.stderr)
    _warn_of_playbook(path)
    print(key)
    return 0


def _list_keys(settings: Settings, _options: argparse.Namespace) -> int:
    for record in key_file.read(_keys_file(settings)):
        print(" ".join([record.name, *(f"{name}={value}" for name, value in record.limits.items())]))
    return 0


def _revoke_key(settings: Settings, options: argparse.Namespace) -> int:
    path = _keys_file(settings)
    key_file.revoke(path, options.name)
    print(f"{options.name} is no longer in {path}")
    _warn_of_playbook(path)
    return 0


def _warn_of_playbook(path: Path) -> None:
    if path.read_text(encoding="utf-8").startswith(WRITTEN_BY_ANSIBLE):
        print("This lasts until the next playbook: see gemma3n_service_api_keys.", file=sys.stderr)


def _keys_file(settings: Settings) -> Path:
    if settings.api_keys_file is None:
        raise KeyFileError(
            "No API keys are wanted: set API_KEYS_FILE, to /etc/gemma3n/keys for one, and make a first key. "
            "Once the server has started with that, it wants one with every request."
        )
    return settings.api_keys_file


def _limit(text: str) -> int:
    limit = int(text)
    if not 1 <= limit <= key_file.LARGEST_LIMIT:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {key_file.LARGEST_LIMIT}")
    return limit


def _progress() -> Progress:
    return ProgressBar() if sys.stderr.isatty() else ProgressLines(_tell)


def _fail(message: str, exit_code: int) -> int:
    print(f"gemma3n-appliance: {message}", file=sys.stderr)
    systemd.notify(systemd.status(f"failed: {message}"))
    return exit_code
