"""Train, resume, decode and score sequence-generation models in JAX.

Example: `seqgen.load("runs/quickstart").generate(["four thousand two hundred"], num_beams=5)`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqgen.loading import load, load_labeller

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_labeller"]


def __getattr__(name: str) -> Any:
    """`load` and `load_labeller` on first use: importing the package must not import jax."""
    if name in ("load", "load_labeller"):
        from seqgen import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'seqgen' has no attribute {name!r}")
