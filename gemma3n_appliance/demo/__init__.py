"""The small checkpoint that ships with the project, and the programs that train and examine it."""

from contextlib import suppress

with suppress(ImportError):  # the pictures, sounds and questions need no torch
    from .. import model as model
