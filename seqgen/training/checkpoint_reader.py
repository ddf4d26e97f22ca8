"""Reading the checkpoints of a run without changing anything: for inference and evaluation."""

import dataclasses
import pathlib
from collections.abc import Callable

from seqgen.errors import CheckpointError, ConfigError
from seqgen.nn.parameters import overlay, put
from seqgen.training import manifest
from seqgen.training.array_files import load_arrays
from seqgen.training.averaging import mean_of_params
from seqgen.training.state import flatten
from seqgen.training.state_groups import check_arrays
from seqgen.types import Params


@dataclasses.dataclass(frozen=True)
class FoundParams:
    """Parameters that were read, as numpy arrays, and where from.

    Attributes:
      params: nested dicts.
      steps: of the checkpoint, or of those whose mean they are.
      group: 'ema' or 'params'.
    """

    params: Params
    steps: list[int]
    group: str


class CheckpointReader:
    """The committed checkpoints of one run directory, which another process may be writing.

    Args:
      directory: the run directory (holds `checkpoints/`).
      report: receives one line for each thing that a person should know.
    """

    def __init__(
        self, directory: pathlib.Path | str, *, report: Callable[[str], None] = lambda line: None
    ):
        self._root = pathlib.Path(directory) / "checkpoints"
        self._report = report

    def steps(self) -> list[int]:
        """Steps of the folders that are there now, oldest first (not verified)."""
        if not self._root.is_dir():
            return []
        return sorted(
            int(path.name) for path in self._root.iterdir() if path.name.isdigit() and path.is_dir()
        )

    def best_step(self) -> int | None:
        """The step with the highest metric (the earliest of equals); None without metrics."""
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def _ranked(self) -> list[int]:
        """Steps with a metric, the best first; only those of the metric that is used now."""
        found = []
        for step in self.steps():
            try:
                body = manifest.read(self._root / str(step))
            except (manifest.DamageError, OSError):
                continue
            if body.get("metric") is not None:
                found.append((-body["metric"], step, body.get("metric_name")))
        current = found[-1][2] if found else None
        return [step for _, step, name in sorted(found, key=lambda row: row[:2]) if name == current]

    def find_params(
        self, abstract_params: Params, which: str | int = "best", *, ema: bool = True
    ) -> FoundParams:
        """Parameters for inference as numpy arrays; nothing in the run directory is changed.

        Args:
          abstract_params: shapes (`definition.abstract`).
          which: 'best' (the newest where no metric is known), 'last', 'avg:N' (mean of the newest
            N), or a step.
          ema: the moving average is taken where the run kept one, but not by 'avg:N'.

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
            members = []
            for step in steps[-count:]:
                try:
                    members.append(self._params(abstract_params, step, ema=False).params)
                except (manifest.DamageError, FileNotFoundError) as error:
                    raise CheckpointError(
                        f"cannot average {name!r}: checkpoint {step} is damaged",
                        details=[str(error)],
                    ) from error
            return FoundParams(mean_of_params(members), steps[-count:], "params")
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
        problems = []
        for step in candidates:
            try:
                return self._params(abstract_params, step, ema=ema)
            except (manifest.DamageError, FileNotFoundError) as error:
                problems.append(f"{step}: {error}")
                self._report(f"checkpoint {step} cannot be used ({error}): trying another")
        raise CheckpointError(f"no usable checkpoint in {self._root}", details=problems)

    def _params(self, abstract_params: Params, step: int, *, ema: bool) -> FoundParams:
        folder = self._root / str(step)
        arrays, wanted = manifest.read(folder)["arrays"], flatten(abstract_params)
        # Of frozen parameters there is no average.
        places = {name: "ema" if ema and f"ema/{name}" in arrays else "params" for name in wanted}
        groups: dict[str, Params] = {}
        for name, group in places.items():
            put(groups, f"{group}/{name}", wanted[name])
        body = manifest.verify(folder, below=["host.json", *(f"arrays/{g}/" for g in groups)])
        saved = {
            own: facts
            for name, facts in body["arrays"].items()
            for group, _, own in [name.partition("/")]
            if group == places.get(own, "params")
        }
        check_arrays(saved, wanted, where=str(folder))
        params = abstract_params
        for part in load_arrays(folder / "arrays", groups).values():
            params = overlay(params, part)
        return FoundParams(params, [step], "ema" if "ema" in groups else "params")
