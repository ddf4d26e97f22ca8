"""Settings that every test shares; they must stand before jax starts."""

import os
import pathlib
import tempfile

# XLA:CPU deadlocks with many unblocked steps on 8 virtual devices unless it may start more threads.
os.environ.setdefault("NPROC", "64")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("NO_COLOR", "1")
# Compiling is most of what tests cost, and a third of it without optimisation, by XLA:CPU's older
# code generator. `.ci/run` repeats the laws of answering as users compile them, which resuming
# always is.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
)
CACHE = pathlib.Path(
    os.environ.setdefault("SEQGEN_TEST_CACHE", f"{tempfile.gettempdir()}/seqgen-test-cache")
)
# Programs that tests start as processes share this cache of prepared data and compiled steps.
os.environ.setdefault("SEQGEN_CACHE", str(CACHE))

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPORA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def corpora() -> pathlib.Path:
    """Directory of the corpora that may lie beside the checkout."""
    return CORPORA


@pytest.fixture(scope="session")
def multi30k() -> pathlib.Path:
    """Directory of Multi30k; the test is skipped where the corpora are absent."""
    folder = CORPORA / "multi30k"
    if not folder.is_dir():
        pytest.skip("Multi30k is not beside this checkout (../shared/data/multi30k)")
    return folder
