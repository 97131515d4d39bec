"""Tests of the torch code are left out where there is no torch, as on the other Pythons of bin/test."""

import importlib.util

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
