"""Ahead-of-time compilation: one program a batch shape, its cost told, its result kept on disk."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from seqgen.training.sharding import Layout
from seqgen.types import PyTree


@dataclasses.dataclass(frozen=True)
class CompileReport:
    """What one compilation gave.

    Attributes:
      name: of the program, with the batch shape.
      seconds: tracing and compiling (or loading from the cache).
      flops: floating-point operations of all matrix products of one call, counted in the program
        before XLA changes it, scan bodies times their length.
      peak_bytes: what one call needs: arguments, results apart from them, temporary memory.
      temp_bytes: what the program itself allocates while it runs, arguments and results left out.
    """

    name: str
    seconds: float
    flops: int
    peak_bytes: int
    temp_bytes: int = 0

    def line(self) -> str:
        """One line for people."""
        return (
            f"compiled {self.name} in {self.seconds:.1f} s: "
            f"{self.flops / 1e9:,.4g} GFLOP a call, peak memory {self.peak_bytes / 2**20:,.4g} MiB"
        )


class CompiledStep:
    """A jitted function compiled once for each shape of its arguments.

    Args:
      function: pure; positional arguments only.
      name: for reports.
      wrap: called as `wrap(label)`, gives a context manager that stands around a compilation
        (progress shows it as a phase of its own).
      report: receives a CompileReport after each compilation.
      layout: whose table of axes holds while tracing.
      jit_options: `in_shardings`, `out_shardings`, `donate_argnums`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        wrap: Callable[[str], Any],
        report: Callable[[CompileReport], None],
        layout: Layout,
        **jit_options: Any,
    ):
        self._jitted = jax.jit(function, **jit_options)
        self._name = name
        self._wrap = wrap
        self._report = report
        self._layout = layout
        self._programs: dict[Any, Any] = {}

    @property
    def num_compiled(self) -> int:
        """Programs made so far."""
        return len(self._programs)

    def __call__(self, *arguments: PyTree, shape_of: PyTree) -> Any:
        """Run; `shape_of` is the argument whose shapes tell programs apart (the batch)."""
        key = tuple(leaf.shape for leaf in jax.tree.leaves(shape_of))
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._compile(arguments, shape_of)
        return program(*arguments)

    def _compile(self, arguments: tuple[PyTree, ...], shape_of: PyTree) -> Any:
        shapes = {leaf.shape: None for leaf in jax.tree.leaves(shape_of)}
        label = " ".join([self._name, *("x".join(map(str, shape)) for shape in shapes)])
        start = time.perf_counter()
        with self._wrap(f"compile {label}"), self._layout.activations():
            traced = self._jitted.trace(*arguments)
            program = traced.lower().compile()
        peak_bytes, temp_bytes = program_memory(program)
        self._report(
            CompileReport(
                name=label,
                seconds=time.perf_counter() - start,
                flops=count_flops(traced.jaxpr.jaxpr),
                peak_bytes=peak_bytes,
                temp_bytes=temp_bytes,
            )
        )
        return program


def program_memory(program: Any) -> tuple[int, int]:
    """Bytes that one call of a compiled program needs in all, and those that it allocates itself.

    The first is a sum, because the peak that XLA names on a CPU leaves out what it allocates.
    """
    memory = program.memory_analysis()
    if memory is None:
        return 0, 0
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    temporary = memory.temp_size_in_bytes
    return int(held - memory.alias_size_in_bytes + temporary), int(temporary)


def count_flops(jaxpr: Any) -> int:
    """Operations of the matrix products in a jaxpr: 2 * (elements of the result) * (summed length).

    XLA's own count takes the body of a scan once; here it counts as often as it runs. Bodies of
    `while` have no known length and count once; of branches the dearest counts. Elementwise work is
    left out: on every accelerator it is bound by memory, not by arithmetic.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        params = equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += (
                2
                * math.prod(equation.outvars[0].aval.shape)
                * math.prod(left[axis] for axis in contracted)
            )
        elif name == "scan":
            total += params["length"] * count_flops(params["jaxpr"].jaxpr)
        elif name == "cond":
            total += max(count_flops(branch.jaxpr) for branch in params["branches"])
        elif name == "shard_map":
            total += params["mesh"].size * count_flops(params["jaxpr"])
        else:
            total += sum(count_flops(inner) for inner in _inner_jaxprs(params))
    return total


def _inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    found = []
    for name, value in params.items():
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun"):
            continue  # rules of custom derivatives: not part of this program
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            found.append(inner)
    return found


def cache_directory() -> pathlib.Path:
    """Per-user folder of compiled programs: $SEQGEN_CACHE/xla or ~/.cache/seqgen/xla."""
    root = os.environ.get("SEQGEN_CACHE")
    return (pathlib.Path(root) if root else pathlib.Path.home() / ".cache" / "seqgen") / "xla"


def measurements_directory() -> pathlib.Path | None:
    """Folder of what was measured about this machine, beside the compiled programs."""
    try:
        return cache_directory().parent
    except RuntimeError:  # no home directory is known
        return None


def enable_compile_cache() -> pathlib.Path | None:
    """Keep compiled programs on disk for the next process; None where nothing can be written.

    A folder that was configured before (by a test suite, by the user through JAX) stays.
    """
    configured = jax.config.values.get("jax_compilation_cache_dir")
    if configured:
        return pathlib.Path(configured)
    try:
        folder = cache_directory()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except (OSError, RuntimeError):  # RuntimeError: no home directory is known
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
