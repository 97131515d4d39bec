"""Has a stand-in's Python remember what it compiles from zip files.

Each of Ansible's tasks brings its module in one, with the same twenty libraries, and has them all compiled
again: a third of what a task costs. A board does that on cores of its own; here, all share a few.
"""
# ruff: noqa: PTH105, PTH123 - every process would have to import pathlib

import _imp
import marshal
import os
import zipimport

FOLDER = "/var/cache/remembered-zips"
_compile = zipimport._compile_source


def _remembered(path, source):
    known = f"{FOLDER}/{_imp.source_hash(0, source).hex()}"
    try:
        with open(known, "rb") as file:
            return marshal.load(file)
    except (OSError, EOFError, ValueError):
        code = _compile(path, source)
    try:
        with open(f"{known}.{os.getpid()}", "wb") as file:
            marshal.dump(code, file)
        os.replace(file.name, known)
    except OSError:  # a service, say, that may not write there
        pass
    return code


zipimport._compile_source = _remembered
