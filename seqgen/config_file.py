"""Runs a config file, which is Python, and gives what it returns."""

import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from seqgen.errors import ConfigError, labelled
from seqgen.types import nearest


def read(spec: str) -> Mapping[str, Any]:
    """What `get_config(ARG)` of `FILE.py[:ARG]` returns, and `tiny(ARG)` of `FILE.py:[ARG,]tiny`.

    Raises:
      ConfigError: no such file, it fails, or it returns something that is no mapping.
    """
    name, _, argument = spec.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else pathlib.Path()
        guess = nearest(path.name, [file.name for file in folder.glob("*.py")])
        details = [labelled("did you mean", str(folder / guess))] if guess else []
        raise ConfigError(f"no config file {name}", details=details)
    if path.suffix != ".py":
        raise ConfigError(f"a config file is Python and its name ends in .py, not {name}")
    function = "get_config"
    if argument == "tiny" or argument.endswith(",tiny"):
        function, argument = "tiny", argument.removesuffix("tiny").removesuffix(",")
    try:
        made = _call(path, function, argument)
    except Exception as error:
        raise ConfigError(
            f"config file {path} failed",
            details=[f"{_line(error, path)}{type(error).__name__}: {error}"],
        ) from error
    if hasattr(made, "to_dict"):  # a ConfigDict
        made = made.to_dict()
    if not isinstance(made, Mapping):
        kind = type(made).__name__
        raise ConfigError(f"{function}() of {path} returned {kind}, not a ConfigDict")
    return made


def _call(path: pathlib.Path, function: str, argument: str) -> Any:
    module_spec = importlib.util.spec_from_file_location("seqgen_experiment_config", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # configs may lie read-only
    try:
        module_spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keep
    make = getattr(module, function, None)
    if make is None:
        raise AttributeError(f"it has no function {function}()")
    if argument and not inspect.signature(make).parameters:
        known = " (tiny is one)" if hasattr(module, "tiny") else ""
        raise ValueError(f"it takes no argument {argument!r}{known}")
    return make(argument) if argument else make()


def _line(error: BaseException, path: pathlib.Path) -> str:
    """'line N: ', the last line of the config file in the error's traceback, or ''."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: " if line else ""
