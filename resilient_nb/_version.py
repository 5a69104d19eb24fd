"""The package's version, where no other import is needed to read it."""

__version__ = "0.1.0"
