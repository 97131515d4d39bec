"""Has a stand-in's Python remember what it compiles, for all stand-ins and for the next run of the tests.

Each of Ansible's tasks brings its module in a zip file, with the same twenty libraries, and has them all
compiled again: a third of what a task costs. Each new runtime has some thousand modules of torch and
transformers compiled. A board does that on cores of its own; here, all share a few.
"""
# ruff: noqa: PTH105, PTH123 - every process would have to import pathlib

import _frozen_importlib_external as files
import _imp
import marshal
import os
import zipimport


def remember_in(folder):
    """Looks in a folder, which may be of no use, before it compiles, and puts there what it has compiled."""
    compile_file, compile_zipped = files.SourceLoader.source_to_code, zipimport._compile_source

    def remembered(key, compile_it):
        known = f"{folder}/{key}"
        try:
            with open(known, "rb") as file:
                return marshal.load(file)
        except (OSError, EOFError, ValueError):
            code = compile_it()
        partial = f"{known}.{os.urandom(8).hex()}"  # two machines can have processes of one number
        try:
            with open(partial, "wb") as file:
                marshal.dump(code, file)
            os.replace(partial, known)
        except OSError:  # a service, say, that may not write there
            pass
        return code

    def file_to_code(self, data, path, *, _optimize=-1):
        def compile_it():
            return compile_file(self, data, path, _optimize=_optimize)

        if not isinstance(data, bytes) or _optimize != -1:
            return compile_it()
        return remembered(_hash(data) + _hash(os.fsencode(path)), compile_it)

    def zipped_to_code(path, source):
        # The path has a number of its own in each task.
        return remembered(_hash(source), lambda: compile_zipped(path, source))

    files.SourceLoader.source_to_code = file_to_code
    zipimport._compile_source = zipped_to_code


def _hash(data):
    return _imp.source_hash(0, data).hex()
