"""Tests of the torch code are left out where there is no torch, as on the other Pythons of bin/test."""

import functools
import importlib.util

from httpx2._transports import default as transports

# Each client would read the authorities of the whole world, which takes 40 ms of a CPU: tests make thousands,
# and one that waits for a server would keep it from starting.
transports.create_ssl_context = functools.cache(transports.create_ssl_context)

collect_ignore = []
if importlib.util.find_spec("torch") is None:
    collect_ignore += [
        "bench",
        "model",
        "stack",
        "conformance",
        "demo/test_lessons.py",
        "demo/test_checkpoint.py",
    ]
