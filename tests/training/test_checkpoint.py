import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from checkpoint_toy import HOST, small_state, with_ema

from seqgen.errors import CheckpointError, ConfigError
from seqgen.training import manifest
from seqgen.training.checkpoint import CheckpointStore, steps_to_remove
from seqgen.training.state import flatten, state_digest


def make_store(path, **options):
    lines = []
    options = {"asynchronous": False, "report": lines.append} | options
    store = CheckpointStore(path, **options)
    return store, lines


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A run directory with checkpoints 10 and 20."""
    path = tmp_path_factory.mktemp("run")
    store, _ = make_store(path)
    for step in (10, 20):
        store.save(step, small_state(step), HOST | {"batches": step})
    return path


@pytest.mark.parametrize("asynchronous", [False, True])
def test_round_trip_keeps_every_bit(tmp_path, asynchronous):
    store, _ = make_store(tmp_path, asynchronous=asynchronous)
    state = with_ema(small_state(3))
    store.save(3, state, HOST, metric=1.5)
    store.close()
    restored, host = make_store(tmp_path)[0].restore(with_ema(small_state(0)))
    assert host == HOST
    assert state_digest(restored) == state_digest(state)


def test_a_relative_directory_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, said = make_store(pathlib.Path("runs/a"))
    store.save(1, small_state(1), HOST)
    store.wait()
    assert store.num_failed_saves == 0, said
    restored = store.restore(small_state(0))
    assert restored is not None and state_digest(restored[0]) == state_digest(small_state(1))


def test_a_directory_without_checkpoints_restores_nothing(tmp_path):
    assert make_store(tmp_path)[0].restore(small_state(0)) is None


def test_saving_takes_a_copy_first(tmp_path):
    """What happens to the state after `save` returns must not reach the disk."""
    store, _ = make_store(tmp_path, asynchronous=True)
    state = small_state(1)
    digest = state_digest(state)
    store.save(1, state, HOST)
    for leaf in jax.tree.leaves(state.params):
        leaf[...] = 0.0
    store.close()
    assert state_digest(store.restore(small_state(0))[0]) == digest


def damage_sites(path):
    folder = path / "checkpoints" / "20"
    return sorted(p.relative_to(path).as_posix() for p in folder.rglob("*") if p.is_file())


def flip(file: pathlib.Path, position: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(bytes(content))


def test_every_flipped_bit_is_found(two_steps):
    """In every file, the manifest included: at both ends, in the middle and at random places."""
    random = np.random.default_rng(0)
    folder = two_steps / "checkpoints" / "20"
    wanted = manifest.read(folder)
    trials = 0
    for name in damage_sites(two_steps):
        file = two_steps / name
        size = file.stat().st_size
        content = file.read_bytes()
        for position in (
            {0, size // 2, size - 1, *random.integers(0, max(size, 1), 8)} if size else ()
        ):
            flip(file, int(position), int(random.integers(8)))
            with pytest.raises(manifest.DamageError):
                manifest.verify(folder)
            file.write_bytes(content)
            trials += 1
    assert trials > 100
    assert manifest.verify(folder) == wanted


@pytest.mark.parametrize("damage", ["flip", "truncate", "zero", "delete", "extra", "no manifest"])
def test_damage_is_quarantined_with_one_line_and_step_10_comes_back(two_steps, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    folder = run / "checkpoints" / "20"
    victim = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == "flip":
        flip(victim, victim.stat().st_size // 2, 3)
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "zero":
        victim.write_bytes(bytes(victim.stat().st_size))
    elif damage == "delete":
        victim.unlink()
    elif damage == "extra":
        (folder / "arrays" / "more").write_text("x")
    else:
        (folder / "MANIFEST.json").unlink()
    store, lines = make_store(run)
    state, host = store.restore(small_state(0))
    assert state_digest(state) == state_digest(small_state(10))
    assert host["batches"] == 10
    assert len(lines) == 1
    assert "20 is damaged" in lines[0]
    assert [p.name.split("-")[0] for p in (run / "quarantine").iterdir()] == ["20"]
    assert store.steps() == [10]


def test_without_digests_flips_would_pass_silently(two_steps, tmp_path, monkeypatch):
    """The digests are what finds a flip: Orbax itself reads the damaged file without a word."""
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    folder = run / "checkpoints" / "20"
    victim = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    flip(victim, victim.stat().st_size // 2, 3)
    monkeypatch.setattr(manifest, "verify", lambda folder, below=None: manifest.read(folder))
    state, _ = make_store(run)[0].restore(small_state(0))
    assert int(state.step) == 20
    assert state_digest(state) != state_digest(small_state(20))


def test_nothing_usable_is_an_error_now_and_next_time(two_steps, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    for step in (10, 20):
        (run / "checkpoints" / str(step) / "host.json").write_text("{}")
    with pytest.raises(CheckpointError, match="size-differs") as first:
        make_store(run)[0].restore(small_state(0))
    assert first.value.exit_code == 4
    assert all(str(step) in str(first.value) for step in (10, 20))
    with pytest.raises(CheckpointError, match="quarantine"):
        make_store(run)[0].restore(small_state(0))


def test_changed_identity_is_refused_by_name_and_nothing_is_moved(tmp_path):
    saved = {"model": {"encoder": {"num_layers": 2}}, "data": {"train": "f00d"}}
    make_store(tmp_path, identity=saved)[0].save(5, small_state(5), HOST)
    changed = {"model": {"encoder": {"num_layers": 3}}, "data": {"train": "beef"}}
    with pytest.raises(ConfigError) as caught:
        make_store(tmp_path, identity=changed)[0].restore(small_state(0))
    assert "model.encoder.num_layers: the run has 2, now 3" in str(caught.value)
    assert "data.train" in str(caught.value)
    restored = make_store(tmp_path, identity=saved)[0].restore(small_state(0))
    assert restored is not None and restored[1] == HOST
    assert state_digest(restored[0]) == state_digest(small_state(5))


def test_an_option_newer_than_the_checkpoint_had_its_default(tmp_path):
    saved = {"model": {"encoder": {"width": 2}}}
    make_store(tmp_path, identity=saved)[0].save(5, small_state(5), HOST)
    newer = {"model": {"encoder": {"width": 2, "kernel": "auto", "sizes": (1, 2)}}}
    defaults = {"model.encoder.kernel": "auto", "model.encoder.sizes": (1, 2)}

    def restore(identity, defaults=None):
        store, _ = make_store(tmp_path, identity=identity, identity_defaults=defaults)
        return store.restore(small_state(0))

    restored = restore(newer, defaults)
    assert restored is not None and restored[1] == HOST
    newer["model"]["encoder"]["kernel"] = "other"
    with pytest.raises(ConfigError, match=r"encoder\.kernel: the run has 'auto', now 'other'"):
        restore(newer, defaults)
    with pytest.raises(ConfigError, match=r"encoder\.sizes: the run has 'nothing'"):
        restore(newer)
    with pytest.raises(ConfigError, match=r"encoder\.width: the run has 2, now 'nothing'"):
        restore({"model": {"encoder": {}}}, {"model.encoder.width": 2})


def test_another_shape_is_refused_without_quarantine(two_steps):
    wanted = small_state(0)
    wanted.params["table"] = np.zeros((51, 8), np.float32)
    with pytest.raises(CheckpointError, match=r"params/table"):
        make_store(two_steps)[0].restore(wanted)
    assert not (two_steps / "quarantine").exists()


@pytest.mark.parametrize("point", ["ckpt.tmp_created", "ckpt.host_written", "ckpt.before_rename"])
def test_a_full_disk_leaves_the_older_step_and_the_next_save_works(tmp_path, monkeypatch, point):
    store, lines = make_store(tmp_path)
    store.save(10, small_state(10), HOST)
    monkeypatch.setenv("SEQGEN_FAULT", f"{point}@step=20:enospc")
    store.save(20, small_state(20), HOST)
    assert store.num_failed_saves == 1
    assert "20 was NOT saved" in lines[0]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["10"]
    store.save(30, small_state(30), HOST)
    assert store.steps() == [10, 30]


def test_a_non_finite_state_is_never_written(tmp_path):
    store, lines = make_store(tmp_path)
    state = small_state(4)
    state.params["table"][3, 3] = np.nan
    store.save(4, state, HOST)
    assert store.steps() == []
    assert "params/table" in lines[0]


def test_retention_keeps_newest_best_and_milestones():
    steps = [10, 20, 30, 40, 50, 60]
    assert steps_to_remove(steps, keep_last=2, keep_every=0, best=None) == [10, 20, 30, 40]
    assert steps_to_remove(steps, keep_last=2, keep_every=0, best=20) == [10, 30, 40]
    assert steps_to_remove(steps, keep_last=3, keep_every=20, best=10) == [30]
    assert steps_to_remove([5], keep_last=2, keep_every=0, best=None) == []


def test_the_store_keeps_the_best(tmp_path):
    store, _ = make_store(tmp_path, keep_last=2)
    for step, metric in ((1, 0.1), (2, 0.9), (3, 0.5), (4, 0.9), (5, None)):
        store.save(step, small_state(step), HOST, metric=metric)
    assert store.steps() == [2, 4, 5]
    assert store.best_step() == 2, "of equals the earliest is the best"
    assert int(store.restore(small_state(0), "best")[0].step) == 2
    assert int(store.restore(small_state(0), 4)[0].step) == 4


def test_saving_a_step_again_replaces_it(tmp_path):
    store, _ = make_store(tmp_path)
    store.save(5, small_state(5), HOST)
    store.save(5, small_state(5), HOST | {"batches": 99}, metric=2.0)
    assert store.restore(small_state(0))[1]["batches"] == 99
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["5"]


def test_a_step_that_was_set_aside_comes_back(tmp_path):
    """Killed between setting the old attempt aside and committing the new one."""
    store, _ = make_store(tmp_path)
    store.save(5, small_state(5), HOST)
    root = tmp_path / "checkpoints"
    (root / "5").rename(root / ".tmp-old-5-4711")
    (root / ".tmp-6-4711").mkdir()
    store.clean()
    assert [p.name for p in root.iterdir()] == ["5"]


def test_parameters_for_inference(tmp_path):
    store, _ = make_store(tmp_path, keep_last=5)
    for step, metric in ((1, 0.3), (2, 0.8), (3, 0.5)):
        store.save(step, small_state(step), HOST, metric=metric)
    abstract = small_state(0).params

    def table(which):
        return store.find_params(abstract, which).params["table"]

    tables = {step: small_state(step).params["table"] for step in (1, 2, 3)}
    np.testing.assert_array_equal(table("best"), tables[2])
    np.testing.assert_array_equal(table("last"), tables[3])
    np.testing.assert_array_equal(table(1), tables[1])
    np.testing.assert_array_equal(table("1"), tables[1])
    mean = (tables[2].astype(np.float64) + tables[3]) / 2
    np.testing.assert_array_equal(table("avg:2"), mean.astype(np.float32))
    for wrong in ("avg:4", "avg:0", "avg:x", "7", "bets"):
        with pytest.raises(ConfigError):
            table(wrong)


def test_the_moving_average_is_preferred_but_not_averaged_again(tmp_path):
    store, _ = make_store(tmp_path)
    store.save(1, with_ema(small_state(1)), HOST)
    state, abstract = small_state(1), small_state(0).params
    found = store.find_params(abstract, "last")
    assert found.group == "ema"
    # The kernel, of which there is none, is taken as it is: it was frozen.
    expected = state.params | {"table": state.params["table"] + 1.0}
    assert state_digest(found.params) == state_digest(expected)
    for plain in (store.find_params(abstract, "avg:1"), store.find_params(abstract, 1, ema=False)):
        assert (plain.group, state_digest(plain.params)) == ("params", state_digest(state.params))


def test_averages_of_frozen_parameters_are_dropped_on_resume(tmp_path):
    """Older runs kept them."""
    store, _ = make_store(tmp_path)
    state = small_state(1)
    store.save(1, dataclasses.replace(state, ema=state.params), HOST)
    wanted = dataclasses.replace(state, ema={"table": state.params["table"]})
    restored, _ = store.restore(wanted)
    assert state_digest(restored) == state_digest(wanted)
    assert flatten(restored).keys() == flatten(wanted).keys()
    with pytest.raises(CheckpointError, match="another model"):  # it is all or nothing else
        store.restore(dataclasses.replace(state, ema=None))


def test_reading_parameters_changes_nothing_and_skips_damage(two_steps, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    victim = run / "checkpoints" / "20" / "host.json"
    victim.write_text(json.dumps(HOST))
    store, lines = make_store(run)
    params = store.find_params(small_state(0).params, "last").params
    assert flatten(params).keys() == flatten(small_state(0).params).keys()
    np.testing.assert_array_equal(params["table"], small_state(10).params["table"])
    assert store.steps() == [10, 20]
    assert len(lines) == 1
