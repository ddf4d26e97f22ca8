"""Dropout bits: right rate, independent along every axis, tied to places and not to shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn.dropout import dropout, fold, keep_mask, make_key, split


def bits(shape, rate, key):
    return np.asarray(keep_mask(shape, rate, key), np.float64)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(64, 16, 64), (16, 4, 32, 32), (65536,)])
def test_share_of_kept_elements(rate, shape):
    kept = bits(shape, rate, make_key(1, step=2))
    sigma = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < 5 * sigma


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_row_column_and_feature_has_the_rate(axis):
    kept = bits((96, 80, 64), 0.3, make_key(5, step=1))
    others = tuple(i for i in range(3) if i != axis)
    means = kept.mean(others)
    sigma = np.sqrt(0.3 * 0.7 / (kept.size / kept.shape[axis]))
    assert np.abs(means - 0.7).max() < 5.5 * sigma
    # A hash that is too regular would spread the means less than chance does.
    assert 0.7 * sigma < means.std() < 1.4 * sigma


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("distance", [1, 2, 16])
def test_neighbours_along_each_axis_are_uncorrelated(axis, distance):
    kept = np.moveaxis(bits((64, 48, 64), 0.3, make_key(2, step=3)), axis, 0) - 0.7
    product = (kept[distance:] * kept[:-distance]).mean() / 0.21
    assert abs(product) < 5 / np.sqrt(kept[distance:].size)


def test_rectangles_are_uncorrelated():
    # Coordinates are added before the scrambling: four corners of a rectangle must not be tied.
    kept = bits((256, 512), 0.5, make_key(4, step=9)) * 2 - 1
    product = kept[1:, 1:] * kept[:-1, 1:] * kept[1:, :-1] * kept[:-1, :-1]
    assert abs(product.mean()) < 5 / np.sqrt(product.size)


@pytest.mark.parametrize("change", ["seed", "step", "micro_batch", "layer", "site"])
def test_masks_of_different_keys_are_uncorrelated(change):
    def key(seed=0, step=0, micro_batch=0, layer=0, site=0):
        return fold(make_key(seed, step=step, micro_batch=micro_batch), layer, site)

    base = bits((64, 32, 32), 0.4, key()) - 0.6
    for value in (1, 2, 255, 2**31 - 1):
        other = bits((64, 32, 32), 0.4, key(**{change: value})) - 0.6
        assert abs((base * other).mean() / 0.24) < 5 / np.sqrt(base.size), value


def test_keys_of_many_steps_and_layers_do_not_collide():
    keys = jax.vmap(lambda step: jnp.stack(split(make_key(7, step=step), 8)))(jnp.arange(500))
    assert len(np.unique(np.asarray(keys))) >= 4000 - 1  # one collision: 0.2 % likely


def test_order_of_folds_matters():
    key = make_key(0, step=0)
    assert int(fold(key, 1, 2)) != int(fold(key, 2, 1))
    assert int(fold(key, 0)) != int(key)


def test_padding_changes_no_bit():
    key = make_key(3, step=4)
    small = bits((3, 5, 8), 0.5, key)
    np.testing.assert_array_equal(small, bits((7, 9, 8), 0.5, key)[:3, :5])
    np.testing.assert_array_equal(small, bits((3, 5, 31), 0.5, key)[:, :, :8])


def test_dropout_is_unbiased_and_its_gradient_uses_the_same_bits():
    key = make_key(0, step=1)
    x = jnp.linspace(1.0, 2.0, 4096).reshape(8, 8, 64)
    y = dropout(x, 0.25, key)
    kept = np.asarray(keep_mask(x.shape, 0.25, key))
    np.testing.assert_allclose(y, np.where(kept, np.asarray(x) / 0.75, 0), rtol=1e-6)
    gradient = jax.grad(lambda x: (dropout(x, 0.25, key) * x).sum())(x)
    np.testing.assert_allclose(gradient, 2 * np.asarray(y), rtol=1e-6)


def test_traced_keys_and_recomputation_give_the_same_bits():
    x = jnp.ones((4, 3, 16))

    @jax.jit
    def run(step):
        drop = jax.checkpoint(lambda x: dropout(x, 0.5, make_key(0, step=step)) ** 2)
        return jax.grad(lambda x: drop(x).sum())(x)

    np.testing.assert_array_equal(run(3), 2 * dropout(x, 0.5, make_key(0, step=3)) * 2)


def test_rows_cut_over_devices_keep_their_bits():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, key = jnp.ones((16, 4, 8)), make_key(0, step=0)
    cut = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    run = jax.jit(lambda x: dropout(x, 0.5, key))
    np.testing.assert_array_equal(run(cut), run(x))


def test_evaluation_and_zero_rate_are_the_identity():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.5, None) is x and dropout(x, 0.0, make_key(0, step=0)) is x
    assert fold(None, 1) is None and split(None, 3) == [None] * 3


def test_impossible_rates_are_refused():
    for rate in (1.0, -0.1):
        with pytest.raises(ValueError, match="rate"):
            dropout(jnp.ones(3), rate, make_key(0, step=0))
