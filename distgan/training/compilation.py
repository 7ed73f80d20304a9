"""torch.compile for the networks that are trained: kernels that do several operations at once (``training.compile``).

The networks are compiled in place, so that their weights, names and hooks stay as they are. Gradient penalties call
them as they are written: what AOTAutograd makes of a backward pass cannot be differentiated. The average is drawn with
as it is written too.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from distgan.networks.layers import Dropout
from distgan.networks.normalisation import MinibatchStddev, has_batchnorm
from distgan.spec import RunSpec
from distgan.training.workers import Workers
from shards.errors import InputError


class Compilation:
    """Compiles a run's networks where ``training.compile`` is on.

    Args:
        spec: The run.
        workers: This process and the others.
        networks: What is trained.

    Raises:
        InputError: It is on, and they cannot be, or should not.
    """

    def __init__(self, spec: RunSpec, workers: Workers, *networks: nn.Module) -> None:
        self._on = spec.training.compile == "on"
        self._seconds = self._told = 0.0
        self._began: float | None = None
        check_compilation(spec, workers, *networks)
        try:
            for network in networks if self._on else ():
                network.compile(dynamic=False)
        except OSError as error:  # torch makes its cache's folder when it is first imported
            raise _failed(error) from error

    def watched(self) -> AbstractContextManager[None]:
        """The context of an update, in which what is called for the first time is compiled.

        Raises:
            InputError: The compiler fails.
        """
        return self._watched() if self._on else nullcontext()

    def news(self) -> list[str]:
        """How long compiling took since the last call, in a sentence, if it did."""
        if self._seconds == self._told:
            return []
        self._told, seconds = self._seconds, self._seconds - self._told
        return [f"torch.compile took {seconds:.1f} s"]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        from torch._dynamo.callback import callback_handler  # here: importing it takes seconds
        from torch._dynamo.exc import TorchDynamoException

        callback_handler.register_start_callback(self._begin)
        callback_handler.register_end_callback(self._end)
        try:
            yield
        except (TorchDynamoException, OSError) as error:  # Inductor's are of the first kind, a full disk is of both
            raise _failed(error) from error
        finally:
            callback_handler.remove_start_callback(self._begin)
            callback_handler.remove_end_callback(self._end)

    def _begin(self, _: object) -> None:
        self._began = time.perf_counter()

    def _end(self, _: object) -> None:
        if self._began is not None:
            self._seconds += time.perf_counter() - self._began
            self._began = None


def _failed(error: Exception) -> InputError:
    """What to say of an error of torch.compile: its first line and, where a compiler ran, that one's first error."""
    inner = getattr(error, "inner_exception", error)
    first, *rest = [line.strip() for line in str(inner).splitlines() if line.strip()] or [type(inner).__name__]
    of_compiler = [line for line in rest if re.search(r"\berror: ", line)][:1]
    said = ": ".join([first.removesuffix(":"), *of_compiler])
    return InputError(f"training.compile is on, but torch.compile fails: {said}: set it to auto or off")


def check_compilation(spec: RunSpec, workers: Workers, *networks: nn.Module) -> None:
    """Find out whether networks can be compiled where ``training.compile`` is on.

    Raises:
        InputError: They cannot, or should not.
    """
    if spec.training.compile == "on" and (reason := _cannot_compile(spec, workers, *networks)):
        raise InputError(f"training.compile is on, but {reason}")


def _cannot_compile(spec: RunSpec, workers: Workers, *networks: nn.Module) -> str | None:
    """Why networks are not compiled, and what to do about it; None where they may be."""
    modules = [module for network in networks for module in network.modules()]
    if spec.training.stages:
        return "a run that grows has other layers in each stage: set it to auto or off, or leave training.stages out"
    if any(isinstance(module, Dropout) and module.probability for module in modules):
        return (
            "dropout draws numbers by slot, which would be compiled anew at each update: set it to auto or off, or "
            "model.critic.dropout to 0"
        )
    if workers.world_size > 1 and (
        any(map(has_batchnorm, networks)) or any(isinstance(module, MinibatchStddev) for module in modules)
    ):
        return "statistics of batches that several workers share are not compiled: set it to auto or off"
    if workers.device.type == "cpu":
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            return f"there is no C++ compiler {compiler}: install one (apt install g++), or set it to auto or off"
    elif importlib.util.find_spec("triton") is None:
        return "the package triton is not installed: pip install triton, or set it to auto or off"
    return None
