"""gunicorn's settings, from ours: ``gunicorn -c python:gemma3n_appliance.gunicorn_conf``."""

import sys

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from .host import logs, systemd
from .host.worker import GRACEFUL_SHUTDOWN_S, ApplianceWorker
from .settings import Settings, SettingsError, load


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        sys.stderr.write(f"gemma3n-appliance: {error}\n")
        raise SystemExit(2) from None


settings = _settings()
logs.configure(settings.log_level)

wsgi_app = "gemma3n_appliance.bootstrap:app()"
bind = [settings.bind]

# A second worker would load the model a second time.
workers = 1
worker_class = ApplianceWorker

# The worker's heartbeat comes from its event loop: silence for this long means that it is stuck for good.
timeout = 120
# After this the worker is killed; by then it has long drained.
graceful_timeout = GRACEFUL_SHUTDOWN_S + 15
keepalive = 75

proc_name = "gemma3n-appliance"
logger_class = logs.GunicornLogger
accesslog = None


def on_starting(_arbiter: object) -> None:
    """Runs before gunicorn would tell systemd anything."""
    systemd.move_socket_aside()


def child_exit(arbiter: Arbiter, _worker: object) -> None:
    """Ends the server with its worker under systemd, which starts it again, later and later if need be."""
    is_stopping = not arbiter.LISTENERS
    if systemd.started_us() and not is_stopping:
        raise HaltServer("The worker has ended.", 1)


# gunicorn 27 would open a control socket in the home directory.
control_socket_disable = True
