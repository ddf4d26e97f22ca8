"""Checkpoints: Orbax inside a commit protocol of our own.

    checkpoints/.tmp-<step>-<pid>/arrays/...   Orbax writes here
                                  host.json    facts of the host: data position, best metric, ...
                                  MANIFEST.json  sizes and digests; written last, synced, renamed
    checkpoints/<step>/                        the folder renamed: committed
    quarantine/<step>-<reason>/                damaged ones, moved here, never deleted

A kill at any moment leaves the older checkpoints whole and at most a `.tmp` folder, which the next
start removes. A failed save is told and tried again at the next interval; training goes on.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from seqgen.errors import CheckpointError, ConfigError, StorageError
from seqgen.training import manifest
from seqgen.training.array_files import load_arrays, save_arrays
from seqgen.training.averaging import mean_of_params
from seqgen.training.faults import fault_point
from seqgen.training.state import TrainState, flatten, snapshot
from seqgen.types import Params, PyTree

HostRecord = dict[str, Any]
GROUPS = ("params", "opt_state", "ema", "rest")


class CheckpointStore:
    """The checkpoints of one run directory.

    Args:
      directory: the run directory (holds `checkpoints/` and `quarantine/`).
      keep_last: newest checkpoints that stay.
      keep_every: checkpoints at multiples of it stay too (0 = none). The best one always stays.
      asynchronous: write in a thread, from a copy in host memory, while training goes on.
      identity: nested JSON values of what the run is bound to, written into every manifest.
      facts: further JSON values for the manifest (config hash, code version).
      report: receives one line for each thing that a person should know.
    """

    def __init__(
        self,
        directory: pathlib.Path | str,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        asynchronous: bool = True,
        identity: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        report: Callable[[str], None] = lambda line: None,
    ):
        self._root = pathlib.Path(directory) / "checkpoints"
        self._quarantine = pathlib.Path(directory) / "quarantine"
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._identity = dict(identity or {})
        self._facts = dict(facts or {})
        self._report = report
        self._pool = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._running: Future[None] | None = None
        self.num_failed_saves = 0

    def steps(self) -> list[int]:
        """Steps of the folders that are there now, oldest first (not verified)."""
        if not self._root.is_dir():
            return []
        return sorted(
            int(path.name) for path in self._root.iterdir() if path.name.isdigit() and path.is_dir()
        )

    def clean(self) -> None:
        """Remove what an interrupted save or removal left behind; only the run's owner may."""
        if not self._root.is_dir():
            return
        for path in self._root.glob(".tmp-old-*"):  # set aside, but its successor never came
            final = self._root / path.name.split("-")[2]
            if not final.exists():
                path.rename(final)
        for path in self._root.glob(".tmp-*"):
            shutil.rmtree(path, ignore_errors=True)

    # -- saving ---------------------------------------------------------------------------------

    def save(
        self, step: int, state: TrainState, host: HostRecord, *, metric: float | None = None
    ) -> None:
        """Write a checkpoint; a failure is reported and counted, never raised.

        Args:
          step: its number.
          state: copied to host memory before this returns, so the next step may donate it.
          host: JSON values that resume needs besides the state.
          metric: the value that chooses the best checkpoint, oriented so that higher is better.
        """
        self.wait()
        fault_point("ckpt.begin", step=step)
        copy = snapshot(state)
        fault_point("ckpt.snapshot_done", step=step)
        if self._pool is None:
            self._write(step, copy, dict(host), metric)
        else:
            self._running = self._pool.submit(self._write, step, copy, dict(host), metric)

    def wait(self) -> None:
        """Until no save is under way."""
        if self._running is not None:
            self._running.result()
            self._running = None

    def close(self) -> None:
        """Wait and stop the thread."""
        self.wait()
        if self._pool is not None:
            self._pool.shutdown()

    def _write(self, step: int, state: TrainState, host: HostRecord, metric: float | None) -> None:
        tmp = self._root / f".tmp-{step}-{os.getpid()}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._commit(tmp, step, state, host, metric)
            self._retain(step)
            fault_point("ckpt.done", step=step)
        except Exception as error:  # whatever the disk or Orbax raise: training must go on
            self.num_failed_saves += 1
            shutil.rmtree(tmp, ignore_errors=True)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._report(f"checkpoint {step} was NOT saved: {reason}; trying again later")

    def _commit(
        self,
        tmp: pathlib.Path,
        step: int,
        state: TrainState,
        host: HostRecord,
        metric: float | None,
    ) -> None:
        arrays = flatten(state)
        _refuse_non_finite(arrays)
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        fault_point("ckpt.tmp_created", step=step)
        save_arrays(tmp / "arrays", _to_groups(state))
        fault_point("ckpt.arrays_written", step=step)
        (tmp / "host.json").write_text(_strict_json(host), encoding="utf-8")
        fault_point("ckpt.host_written", step=step)
        manifest.sync_tree(tmp)
        fault_point("ckpt.synced", step=step)
        body = {
            "schema": manifest.SCHEMA,
            "step": step,
            "metric": metric,
            "identity": self._identity,
            **self._facts,
            "arrays": {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in arrays.items()},
            "files": manifest.describe_files(tmp),
        }
        fault_point("ckpt.digests_done", step=step)
        draft = tmp / f"{manifest.NAME}.tmp"
        draft.write_bytes(manifest.encode(body))
        manifest.sync(draft)
        fault_point("ckpt.manifest_tmp_written", step=step)
        draft.rename(tmp / manifest.NAME)
        manifest.sync(tmp)
        fault_point("ckpt.manifest_written", step=step)
        final = self._root / str(step)
        if final.exists():  # an older attempt at this step: set aside, so that the rename is atomic
            final.rename(self._root / f".tmp-old-{step}-{os.getpid()}")
        fault_point("ckpt.before_rename", step=step)
        tmp.rename(final)
        manifest.sync(self._root)
        fault_point("ckpt.after_rename", step=step)

    def _retain(self, step: int) -> None:
        """Remove what is not kept; renamed first, so that no half checkpoint is ever seen."""
        fault_point("ckpt.retention_begin", step=step)
        steps = self.steps()
        keep = {*steps[-self._keep_last :], step, self.best_step()}
        for old in steps:
            if old in keep or (self._keep_every and old % self._keep_every == 0):
                continue
            doomed = self._root / f".tmp-remove-{old}-{os.getpid()}"
            (self._root / str(old)).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
            fault_point("ckpt.retention_one_removed", step=step)
        for left in self._root.glob(".tmp-old-*"):
            shutil.rmtree(left, ignore_errors=True)

    # -- reading --------------------------------------------------------------------------------

    def best_step(self) -> int | None:
        """The step with the highest metric (the earliest of equals); None without metrics."""
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def _ranked(self) -> list[int]:
        found = []
        for step in self.steps():
            try:
                metric = manifest.read(self._root / str(step)).get("metric")
            except (manifest.DamageError, OSError):
                continue
            if metric is not None:
                found.append((-metric, step))
        return [step for _, step in sorted(found)]

    def restore(
        self, abstract: TrainState, step: int | str = "latest"
    ) -> tuple[TrainState, HostRecord] | None:
        """The newest intact checkpoint (or the best, or a given step), placed as `abstract` says.

        Damaged ones are moved to `quarantine/` with one line each, and the next older is taken.
        Gives None if there never was a checkpoint.

        Raises:
          ConfigError: the checkpoint belongs to another model, tokenizer or corpus.
          CheckpointError: checkpoints exist, and none can be used.
        """
        problems: list[str] = []
        for candidate in self._candidates(step):
            folder = self._root / str(candidate)
            try:
                body = manifest.verify(folder)
                manifest.check_identity(body["identity"], self._identity)
                _check_arrays(body["arrays"], flatten(abstract), where=str(folder))
                host = json.loads((folder / "host.json").read_text(encoding="utf-8"))
                groups = load_arrays(folder / "arrays", _to_groups(abstract))
            except (ConfigError, CheckpointError):
                raise
            except OSError as error:
                raise StorageError(f"cannot read {folder}", details=[str(error)]) from error
            except Exception as error:
                reason = str(error) if isinstance(error, manifest.DamageError) else "unreadable"
                moved = self._set_aside(folder, reason)
                problems.append(f"{folder.name}: {reason} (moved to {moved})")
                self._report(f"checkpoint {candidate} is damaged ({reason}): moved to {moved}")
                continue
            return _from_groups(abstract, groups), host
        if problems or self._quarantined():
            raise CheckpointError(
                f"no usable checkpoint in {self._root}",
                details=[
                    *(problems or [f"damaged ones are in {self._quarantine}"]),
                    "bring one back, or start over with --fresh",
                ],
            )
        return None

    def _candidates(self, step: int | str) -> list[int]:
        if step == "latest":
            return self.steps()[::-1]
        if step == "best":
            return self._ranked()
        return [int(step)] if int(step) in self.steps() else []

    def _quarantined(self) -> list[str]:
        return (
            sorted(p.name for p in self._quarantine.iterdir()) if self._quarantine.is_dir() else []
        )

    def _set_aside(self, folder: pathlib.Path, reason: str) -> pathlib.Path:
        self._quarantine.mkdir(parents=True, exist_ok=True)
        base = self._quarantine / f"{folder.name}-{reason.split()[0]}"
        target, count = base, 1
        while target.exists():
            count += 1
            target = base.with_name(f"{base.name}-{count}")
        folder.rename(target)
        return target

    def restore_params(self, abstract_params: Params, which: str | int = "best") -> Params:
        """Parameters for inference as numpy arrays; nothing in the run directory is changed.

        Args:
          abstract_params: shapes (`definition.abstract`).
          which: 'best' (the newest where no metric is known), 'last', 'avg:N' (mean of the newest
            N), or a step. The moving average is taken where the run kept one, but not by 'avg:N'.

        Raises:
          ConfigError: there is no such checkpoint.
          CheckpointError: checkpoints exist, and none can be used.
        """
        name = str(which)
        steps = self.steps()
        if name.startswith("avg:"):
            count = int(name.removeprefix("avg:")) if name[4:].isdigit() else 0
            if not 0 < count <= len(steps):
                raise ConfigError(
                    f"cannot average {name!r}: {len(steps)} checkpoints are kept",
                    details=["train with a larger config.train.keep_checkpoints"],
                )
            chosen = steps[-count:]
            return mean_of_params([self._params(abstract_params, s, ema=False) for s in chosen])
        if name == "best":
            candidates = self._ranked() or steps[::-1]
        elif name in ("last", "latest"):
            candidates = steps[::-1]
        else:
            candidates = [int(name)] if name.isdigit() and int(name) in steps else []
        if not candidates:
            known = ", ".join(map(str, steps)) or "none"
            raise ConfigError(
                f"no checkpoint {name!r} in {self._root}",
                details=[f"there are       {known}", "or              best, last, avg:N"],
            )
        for step in candidates:
            try:
                return self._params(abstract_params, step, ema=True)
            except manifest.DamageError as error:
                self._report(f"checkpoint {step} is damaged ({error}): trying another")
        raise CheckpointError(f"no usable checkpoint in {self._root}")

    def _params(self, abstract_params: Params, step: int, *, ema: bool) -> Params:
        folder = self._root / str(step)
        names = {name.split("/", 1)[0] for name in manifest.read(folder)["arrays"]}
        group = "ema" if ema and "ema" in names else "params"
        body = manifest.verify(folder, below=["host.json", f"arrays/{group}/"])
        saved = {
            name.split("/", 1)[1]: facts
            for name, facts in body["arrays"].items()
            if name.startswith(f"{group}/")
        }
        _check_arrays(saved, flatten(abstract_params), where=str(folder))
        return load_arrays(folder / "arrays", {group: abstract_params})[group]


def _to_groups(state: TrainState) -> dict[str, PyTree]:
    rest = {"step": state.step, "key": state.key, "counters": state.counters}
    if state.carry is not None:
        rest["carry"] = state.carry
    groups = {"params": state.params, "opt_state": state.opt_state, "ema": state.ema, "rest": rest}
    return {name: tree for name, tree in groups.items() if jax.tree.leaves(tree)}


def _from_groups(abstract: TrainState, groups: dict[str, Any]) -> TrainState:
    rest = groups["rest"]
    loaded = TrainState(
        step=rest["step"],
        params=groups["params"],
        opt_state=groups.get("opt_state", {}),
        key=rest["key"],
        ema=groups.get("ema"),
        counters=rest["counters"],
        carry=rest.get("carry"),
    )
    # may_alias: the first step donates these buffers, and numpy must not own what XLA overwrites.
    return jax.tree.map(
        lambda leaf, value: jax.device_put(
            np.asarray(value), getattr(leaf, "sharding", None), may_alias=False
        ),
        abstract,
        loaded,
    )


def _refuse_non_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, leaf in arrays.items():
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            raise ValueError(f"{name} holds non-finite values")


def _check_arrays(saved: Mapping[str, Any], wanted: Mapping[str, Any], *, where: str) -> None:
    now = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in wanted.items()}
    different = [
        f"{name}: saved {saved.get(name, 'nothing')}, wanted {now.get(name, 'nothing')}"
        for name in sorted(set(saved) | set(now))
        if saved.get(name) != now.get(name)
    ]
    if different:
        raise CheckpointError(f"{where} holds another model or optimiser", details=different[:4])


def _strict_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False) + "\n"
