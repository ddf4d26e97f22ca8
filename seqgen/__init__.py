"""Train, resume, decode and score sequence-generation models in JAX.

Example: `seqgen.load("runs/quickstart").generate(["four thousand two hundred"], num_beams=5)`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqgen.runs import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` on first use: importing the package must not import jax."""
    if name == "load":
        from seqgen.runs import load

        return load
    raise AttributeError(f"module 'seqgen' has no attribute {name!r}")
