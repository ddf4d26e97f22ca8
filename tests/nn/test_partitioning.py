"""Logical axes to mesh axes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from seqgen.nn.partitioning import axis_rules, constrain, num_shards, spec_for


@pytest.fixture(scope="module")
def mesh():
    auto = (jax.sharding.AxisType.Auto,) * 4
    return jax.make_mesh((2, 2, 2, 1), ("data", "fsdp", "tensor", "sequence"), axis_types=auto)


def test_specs():
    assert spec_for(("embed", "mlp")) == PartitionSpec("fsdp", "tensor")
    assert spec_for((None, "vocab")) == PartitionSpec(None, "tensor")
    # Rows use fsdp already, so the width of activations stays whole.
    spec = spec_for(("batch", "length", "embed"))
    assert spec == PartitionSpec(("data", "fsdp"), "sequence", None)
    assert spec_for(("batch",), {"batch": ("data",)}) == PartitionSpec("data")


def test_uneven_dimensions_stay_whole(mesh):
    assert spec_for(("vocab",), shape=(10,), mesh=mesh) == PartitionSpec("tensor")
    assert spec_for(("vocab",), shape=(11,), mesh=mesh) == PartitionSpec(None)


def test_constrain_only_under_a_mesh(mesh):
    x = jnp.ones((8, 4, 6))
    assert constrain(x, ("batch", "length", "embed")) is x
    assert num_shards("heads") == 1
    with axis_rules(mesh):
        y = jax.jit(lambda x: constrain(x, ("batch", "length", "mlp")) * 1)(x)
        assert num_shards("heads") == 2 and num_shards("batch") == 4
    assert y.sharding.shard_shape(y.shape) == (2, 4, 3)
    with axis_rules(None):
        assert constrain(x, ("batch", "length", "embed")) is x
