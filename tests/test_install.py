"""The package as users install it: with its native kernels, and without a compiler.

Builds need no network: the build requirements are those of `requirements.txt`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD_REQUIREMENTS = ("pip", "scikit_build_core", "nanobind", "cmake", "ninja")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in BUILD_REQUIREMENTS),
    reason=f"building the package takes {', '.join(BUILD_REQUIREMENTS)}",
)


def pip(*arguments: str, environment: dict[str, str]) -> str:
    """Runs pip on this checkout without the network; returns what it and the build said."""
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", *arguments, *offline, str(ROOT)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def install(target: Path, work: Path, environment: dict[str, str]) -> str:
    """Installs the package into the folder `target`; `work` is the build's own."""
    options = ["--verbose", "--target", str(target), f"--config-settings=build-dir={work}"]
    return pip("install", *options, environment=environment)


def run(target: Path, code: str) -> str:
    """What `code` prints where the package comes from `target` and not from this checkout."""
    # -I: neither the working directory nor PYTHONPATH; -S with the packages' folders, so that no editable
    # install's hook runs.
    packages = [path for path in sys.path if path.endswith("-packages")]
    program = f"import sys; sys.path = [{str(target)!r}, *sys.path, *{packages!r}]\n{code}"
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def without_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment in which no compiler is found: nothing on the path, and variables that name nothing."""
    empty = tmp_path / "bin"
    empty.mkdir()
    return os.environ | {"PATH": str(empty), "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}


def test_without_a_compiler_the_package_works_and_says_what_is_missing(
    tmp_path: Path, without_compiler: dict[str, str]
) -> None:
    without_compiler.pop("TWOFOLD_REQUIRE_NATIVE", None)
    said = install(tmp_path / "target", tmp_path / "build", without_compiler)
    assert "Native kernels NOT built" in said
    assert not list((tmp_path / "target").rglob("*.so"))

    said = run(
        tmp_path / "target",
        "import twofold; from twofold.kernels.cpu import native, why_missing\n"
        "print(twofold.__file__, native(), why_missing(), sep='|')",
    )
    where, module, why = said.split("|")
    assert where.startswith(str(tmp_path / "target"))
    assert module == "None"
    for part in ("not built", "reference kernels in torch", "slower", "C++ compiler", "pip install"):
        assert part in why
    assert run(tmp_path / "target", "import twofold.cli; print('works')") == "works"


def test_native_kernels_can_be_insisted_on(tmp_path: Path, without_compiler: dict[str, str]) -> None:
    without_compiler["TWOFOLD_REQUIRE_NATIVE"] = "1"
    with pytest.raises(AssertionError, match="CMAKE_CXX_COMPILER"):
        install(tmp_path / "target", tmp_path / "build", without_compiler)


def test_a_wheel_has_the_native_kernels_the_data_files_and_no_sources_of_the_kernels(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    # In the checkout's own build directory: what is compiled already is not compiled again.
    pip("wheel", "--wheel-dir", str(tmp_path), environment=os.environ | {"TWOFOLD_REQUIRE_NATIVE": "1"})
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "target")

    package = ROOT / "src" / "twofold"
    wanted = {
        f"twofold/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.suffix in {".py", ".yaml", ".html", ".css", ".typed"}
    }
    assert wanted <= names
    assert not [name for name in names if "csrc" in name]

    said = run(
        tmp_path / "target",
        "from twofold.kernels.cpu import extension, why_missing\n"
        "native = extension(); native.self_test(native.Stream(2), 10)\n"
        "print(native.__file__, why_missing(), sep='|')",
    )
    assert said.startswith(str(tmp_path / "target"))
    assert said.endswith("|")
    if shutil.which("nm"):
        check_objects(newest_objects())


def newest_objects() -> dict[str, Path]:
    """The object files of the kernels per instruction set, of the build that was just made."""
    caches = (ROOT / "build").glob("*/CMakeCache.txt")
    newest = max(caches, key=lambda cache: cache.stat().st_mtime).parent
    return {path.name.split(".")[0]: path for path in newest.rglob("kernels_*.cpp.o")}


def check_objects(objects: dict[str, Path]) -> None:
    """No code of a wide instruction set runs where nobody asked for it: not when the module is loaded, and
    not as the linker's pick among copies of an inline function (the scalar file is linked first)."""
    symbols = {
        isa: [line.split()[-2:] for line in subprocess.check_output(["nm", path], text=True).splitlines()]
        for isa, path in objects.items()
    }
    weak = {
        isa: {
            name for kind, name in table if kind in "WVu" and not name.startswith("DW.ref.")
        }  # data, no code
        for isa, table in symbols.items()
    }
    for isa, table in symbols.items():
        assert not [name for _, name in table if "_GLOBAL__sub_I" in name], f"{isa}: code that runs at load"
        assert weak[isa] <= weak["kernels_scalar"], f"{isa}: inline functions that others may be given"
