"""Adds the C kernels to wheels for Linux: each variant that the compiler can build, under handloom/native/built."""

import os
import platform
import runpy
import shlex
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

compiler = shlex.split(os.environ.get("CC") or "cc")
on_linux = platform.system() == "Linux" and shutil.which(compiler[0]) is not None


class BuildWithKernels(build_py):
    """The Python files, and the libraries; an editable installation builds its own at first use."""

    def run(self):
        super().run()
        if not on_linux or self.editable_mode:
            return
        native = runpy.run_path("src/handloom/native/compiling.py")
        for variant in native["VARIANTS"]:
            if platform.machine() != "x86_64" and variant != "portable":
                continue
            target = Path(self.build_lib, "handloom/native/built", f"{variant}-{native['source_key'](variant)}.so")
            target.parent.mkdir(parents=True, exist_ok=True)
            if failed := native["compile_variant"](compiler, variant, target):
                self.warn(f"the {variant} kernels are left out: {failed}")


class WheelOfSystem(bdist_wheel):
    """Any Python 3, this kind of processor: the libraries are called through ctypes."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class WithLibraries(Distribution):
    """Has libraries, where they can be built."""

    def has_ext_modules(self):
        return on_linux


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelOfSystem}, distclass=WithLibraries)
