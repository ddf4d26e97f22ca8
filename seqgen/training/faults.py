"""Named points at which a trial may kill this process or make the disk refuse.

`SEQGEN_FAULT=ckpt.before_rename@step=40:kill` ends the process there as `kill -9` would;
`...:enospc` raises the error of a full disk; `...:term` sends the first SIGTERM. Several faults are
separated by commas. Without the variable a point costs one look into the environment.
"""

import errno
import os
import signal

CHECKPOINT_POINTS = (
    "ckpt.begin",
    "ckpt.snapshot_done",
    "ckpt.tmp_created",
    "ckpt.arrays_written",
    "ckpt.host_written",
    "ckpt.synced",
    "ckpt.digests_done",
    "ckpt.manifest_tmp_written",
    "ckpt.manifest_written",
    "ckpt.before_rename",
    "ckpt.after_rename",
    "ckpt.retention_begin",
    "ckpt.retention_one_removed",
    "ckpt.done",
)
LOOP_POINTS = ("loop.restored", "loop.eval", "loop.batch", "loop.step_done", "loop.logged")


def fault_point(name: str, *, step: int) -> None:
    """Do here what SEQGEN_FAULT asks for, if it asks for this point and step.

    Raises:
      OSError: for the action `enospc`.
    """
    wanted = os.environ.get("SEQGEN_FAULT")
    if not wanted:
        return
    for fault in wanted.split(","):
        place, _, action = fault.strip().partition(":")
        if place != f"{name}@step={step}":
            continue
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif action == "enospc":
            raise OSError(errno.ENOSPC, "no space left on device (injected)")
