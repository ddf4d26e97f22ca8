"""The protocol that `drive.py` speaks: a program warms up, then does one pass a line of input.

A program prints a ready line once it is warm; then it runs one pass for each line that it reads and
answers with one line. Several programs that are alive at once can so be asked in turn, and a busy
moment of the machine meets all of them.

    {"name": "torch-lstm-luong-float32", "ready": true, "warmup_s": [3.9, 1.2]}
    {"name": "torch-lstm-luong-float32", "tokens_per_s": 3958.0, "wall_s": 0.98, "cpu_s": 1.9,
     "peak_mib": 912.4, "loss": 8.91}
"""

import json
import resource
import sys
import time
from collections.abc import Callable

EXIT_MISSING = 2  # the program cannot do this work (argparse's own status for bad arguments)


def serve(
    name: str,
    run_pass: Callable[[], float | None],
    *,
    tokens: int,
    num_warmups: int = 2,
) -> None:
    """Warm up, say so, then run one timed pass for each line on standard input.

    Args:
      name: label in the results.
      run_pass: does one pass, waits for its end, gives its last loss (None in decoding).
      tokens: tokens that one pass trains on or writes.
      num_warmups: passes outside of all measurement (compilation, allocator, caches).
    """
    warmup_s = []
    for _ in range(num_warmups):
        start = time.perf_counter()
        run_pass()
        warmup_s.append(round(time.perf_counter() - start, 3))
    _say(name=name, ready=True, warmup_s=warmup_s)
    for _ in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = run_pass()
        cpu_s, wall_s = time.process_time() - cpu_start, time.perf_counter() - start
        _say(
            name=name,
            tokens_per_s=round(tokens / wall_s, 2),
            wall_s=round(wall_s, 5),
            cpu_s=round(cpu_s, 5),
            peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            loss=loss,
        )


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)
