"""Native CPU kernels: the extension module, or why it is not there.

The extension (C++, in `csrc/`) is built when the package is installed and a C++ compiler is found; without
one the package works all the same, on the reference kernels. Nothing is imported here before it is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

_NAME = "twofold.kernels.cpu._native"


@cache
def _load() -> tuple[ModuleType | None, str]:
    """The extension, or None and a sentence that says what is wrong."""
    try:
        return import_module(_NAME), ""
    except ModuleNotFoundError:
        return None, "The native CPU kernels were not built when Twofold was installed."
    except ImportError as error:  # built for another interpreter or C++ runtime
        return None, f"The native CPU kernels cannot be loaded: {error}."


def native() -> ModuleType | None:
    """The extension module, or None where there is none (`why_missing` says why)."""
    return _load()[0]


def extension() -> ModuleType:
    """The extension module, for code that runs only where `native()` is not None."""
    module = native()
    assert module is not None, "asked for native kernels where there are none"
    return module


def why_missing() -> str:
    """What is missing, what that means and how to get it, to be shown once to the user; empty where nothing
    is missing."""
    wrong = _load()[1]
    if not wrong:
        return ""
    return (
        f"{wrong} The reference kernels in torch are used instead, which are several times slower. To get "
        "the native ones, install a C++ compiler (GCC or Clang), then install Twofold again: "
        "pip install --force-reinstall --no-deps, from where you had it (-v shows the compiler's messages)."
    )
