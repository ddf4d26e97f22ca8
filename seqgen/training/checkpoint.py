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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from seqgen.errors import CheckpointError, ConfigError, StorageError
from seqgen.training import manifest
from seqgen.training.array_files import load_arrays, save_arrays
from seqgen.training.checkpoint_reader import CheckpointReader
from seqgen.training.faults import fault_point
from seqgen.training.state import TrainState, flatten, snapshot
from seqgen.training.state_groups import (
    check_arrays,
    from_groups,
    refuse_non_finite,
    to_groups,
    without_frozen_averages,
)

HostRecord = dict[str, Any]


def steps_to_remove(
    steps: Sequence[int], *, keep_last: int, keep_every: int, best: int | None
) -> list[int]:
    """The steps (given oldest first) that are neither among the newest nor best nor milestones."""
    newest = set(steps[-keep_last:])
    return [
        step
        for step in steps
        if step not in newest and step != best and not (keep_every and step % keep_every == 0)
    ]


class CheckpointStore(CheckpointReader):
    """The checkpoints of one run directory.

    Args:
      directory: the run directory (holds `checkpoints/` and `quarantine/`).
      keep_last: newest checkpoints that stay.
      keep_every: checkpoints at multiples of it stay too (0 = none). The best one always stays.
      asynchronous: write in a thread, from a copy in host memory, while training goes on.
      identity: nested JSON values of what the run is bound to, written into every manifest.
      identity_defaults: see `manifest.check_identity`.
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
        identity_defaults: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        report: Callable[[str], None] = lambda line: None,
    ):
        super().__init__(directory, report=report)
        self._quarantine = pathlib.Path(directory) / "quarantine"
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._identity = dict(identity or {})
        self._identity_defaults = dict(identity_defaults or {})
        self._facts = dict(facts or {})
        self._pool = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._running: Future[None] | None = None
        self.num_failed_saves = 0

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
        except Exception as error:  # whatever the disk or Orbax raise: training must go on
            self.num_failed_saves += 1
            shutil.rmtree(tmp, ignore_errors=True)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._report(f"checkpoint {step} was NOT saved: {reason}; trying again later")
            return
        try:
            self._retain(step)
        except OSError as error:
            self._report(f"old checkpoints were not removed: {error}")
        fault_point("ckpt.done", step=step)

    def _commit(
        self,
        tmp: pathlib.Path,
        step: int,
        state: TrainState,
        host: HostRecord,
        metric: float | None,
    ) -> None:
        arrays = flatten(state)
        refuse_non_finite(arrays)
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        fault_point("ckpt.tmp_created", step=step)
        save_arrays(tmp / "arrays", to_groups(state))
        fault_point("ckpt.arrays_written", step=step)
        (tmp / "host.json").write_text(
            json.dumps(host, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
        )
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
        doomed_steps = steps_to_remove(
            self.steps(),
            keep_last=self._keep_last,
            keep_every=self._keep_every,
            best=self.best_step(),
        )
        for old in doomed_steps:
            doomed = self._root / f".tmp-remove-{old}-{os.getpid()}"
            (self._root / str(old)).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
            fault_point("ckpt.retention_one_removed", step=step)
        for left in self._root.glob(".tmp-old-*"):
            shutil.rmtree(left, ignore_errors=True)

    # -- reading --------------------------------------------------------------------------------

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
                manifest.check_identity(body["identity"], self._identity, self._identity_defaults)
                wanted = flatten(abstract)
                saved = without_frozen_averages(body["arrays"], wanted)
                check_arrays(saved, wanted, where=str(folder))
                host = json.loads((folder / "host.json").read_text(encoding="utf-8"))
                groups = load_arrays(folder / "arrays", to_groups(abstract))
            except (ConfigError, CheckpointError):
                raise
            except manifest.DamageError as error:
                reason = str(error)
                moved = self._set_aside(folder, reason)
                problems.append(f"{folder.name}: {reason} (moved to {moved})")
                self._report(f"checkpoint {candidate} is damaged ({reason}): moved to {moved}")
                continue
            except Exception as error:  # its digests are right: what is wrong is not the checkpoint
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise StorageError(f"cannot read {folder}", details=[reason]) from error
            return from_groups(abstract, groups), host
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
        base = self._quarantine / f"{folder.name}-{reason.split()[0]}"
        target, count = base, 1
        try:
            self._quarantine.mkdir(parents=True, exist_ok=True)
            while target.exists():
                count += 1
                target = base.with_name(f"{base.name}-{count}")
            folder.rename(target)
        except OSError as error:
            raise StorageError(
                f"{folder} is damaged ({reason}) and cannot be moved", details=[str(error)]
            ) from error
        return target
