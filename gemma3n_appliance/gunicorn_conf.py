"""gunicorn's settings, from ours: ``gunicorn -c python:gemma3n_appliance.gunicorn_conf``."""

import sys

from .host import logs
from .host.worker import ApplianceWorker
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
bind = [f"{settings.gemma3n_host}:{settings.gemma3n_port}"]

# A second worker would load the model a second time.
workers = 1
worker_class = ApplianceWorker

# The worker's heartbeat comes from its event loop: silence for this long means that it is stuck for good.
timeout = 120
# What runs when the server is told to stop has this long to finish.
graceful_timeout = 45
keepalive = 75

proc_name = "gemma3n-appliance"
logger_class = logs.GunicornLogger
accesslog = None

# gunicorn 27 would open a control socket in the home directory.
control_socket_disable = True
