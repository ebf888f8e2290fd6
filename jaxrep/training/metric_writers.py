"""Where metrics go: a progress bar, metrics.jsonl, TensorBoard and Weights & Biases; fetched without stopping the
step."""

import contextlib
import importlib.util
import json
import math
import resource
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrep.errors import UsageError
from jaxrep.recipe import Logging, Recipe
from jaxrep.runs import layout
from jaxrep.spec_json import to_json
from jaxrep.step.flops import peak_flops


class MetricWriter(Protocol):
    """Takes the metrics of a step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """metrics.jsonl: one JSON object a logged step, appended whole. Lines after the step that a run resumes at are
    cut."""

    def __init__(self, path: Path, resumed_at: int):
        if path.exists():
            lines = [line for line in path.read_text(errors="replace").splitlines() if _step_of(line) <= resumed_at]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in lines))
            temporary.replace(path)
        self._file = path.open("a", buffering=1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        # JSON has no NaN: a number that is not finite is written as null
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Event files for TensorBoard, written at once: a thread of tensorboardX that meets a full disk would hang us."""

    def __init__(self, directory: Path):
        from tensorboardX.event_file_writer import EventsWriter

        directory.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A run in Weights & Biases, resumed under the same id."""

    def __init__(self, project: str, run_dir: Path, recipe: Recipe):
        import wandb  # pyright: ignore[reportMissingImports]

        marker = run_dir / layout.WANDB_ID
        if not marker.exists():
            marker.write_text(wandb.util.generate_id())
        self._run = wandb.init(
            project=project, id=marker.read_text(), resume="allow", dir=str(run_dir), config=to_json(recipe)
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class MetricLogger:
    """Sends a step's metrics on when the device has them: the arrays of one step are fetched while the next one
    runs."""

    def __init__(self, recipe: Recipe, run_dir: Path, resumed_at: int, total_steps: int, main: bool):
        self.latest: dict[str, float] = {}
        """The last metrics that were fetched."""
        self.latest_step = resumed_at
        """The step that they are of."""
        self._batch, self._flops, self._waited, self._saved = recipe.data.batch_size, 0.0, 0.0, 0.0
        self._every = recipe.log.every_steps
        self._writers = _writers(recipe.log, recipe, run_dir, resumed_at) if main else []
        self._pending: tuple[int, dict[str, Any], dict[str, float]] | None = None
        self._since, self._since_step = time.perf_counter(), resumed_at
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} examples/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not main,
        )
        self._task = self._progress.add_task("train", total=total_steps, completed=resumed_at, loss="-", rate="-")
        self._progress.start()

    def advance(self, step: int, data_wait: float, flops: float) -> None:
        """Moves the bar. ``data_wait``: seconds that the step waited for its batch; ``flops``: of the step."""
        self._waited += data_wait
        self._flops += flops
        self._progress.update(self._task, completed=step)

    def log(self, step: int, metrics: dict[str, Any], host: dict[str, float]) -> None:
        """Takes the metrics of a logged step; those of the one before are written now."""
        now = time.perf_counter()
        steps, seconds = step - self._since_step, max(now - self._since, 1e-9)
        own = {"examples_per_second": steps * self._batch / seconds, "data_wait": self._waited / seconds}
        own["checkpoint_wait"] = self._saved / seconds
        if peak := peak_flops():
            own["flops_utilization"] = self._flops / seconds / (peak * jax.device_count())
        self._since, self._since_step, self._waited, self._saved, self._flops = now, step, 0.0, 0.0, 0.0
        if step % self._every:  # logged for its evaluation, or as the last: its health was not measured
            metrics = {name: value for name, value in metrics.items() if not name.startswith("embeddings/")}
        self.flush()
        self._pending = (step, metrics, {**own, **host})

    def add(self, found: Mapping[str, float]) -> None:
        """Puts what evaluations found beside the metrics of the step; their time counts as none of training."""
        if found and self._pending is not None:
            self._pending[2].update(found)
            self._since = time.perf_counter()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Counts the time within as that for which a checkpoint keeps the loop waiting."""
        start = time.perf_counter()
        yield
        self._saved += time.perf_counter() - start

    def flush(self) -> None:
        """Writes what is pending; waits for the device if it must."""
        if self._pending is None:
            return
        step, metrics, host = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.latest, self.latest_step = values, step
        for writer in self._writers:
            writer.write(step, {"examples": float(step * self._batch), **values, **host})
        rate = f"{host['examples_per_second']:,.0f}"
        self._progress.update(self._task, loss=f"{values['loss']:.4f}", rate=rate)

    def close(self) -> None:
        self.flush()
        self._progress.stop()
        for writer in self._writers:
            writer.close()


def check_writers(spec: Logging) -> None:
    """That the packages are there which the writers need. Raises UsageError."""
    if spec.wandb and importlib.util.find_spec("wandb") is None:
        raise UsageError("log.wandb needs the package wandb, which is not installed: pip install 'jaxrep[wandb]'")


def _writers(spec: Logging, recipe: Recipe, run_dir: Path, resumed_at: int) -> list[MetricWriter]:
    writers: list[MetricWriter] = [JsonlWriter(run_dir / layout.METRICS, resumed_at)]
    if spec.tensorboard:
        writers.append(TensorBoardWriter(run_dir / layout.TENSORBOARD))
    if spec.wandb:
        writers.append(WandbWriter(spec.wandb, run_dir, recipe))
    return writers


def device_memory() -> dict[str, float]:
    """Peak memory so far: of the fullest local device where it tells, and of this process."""
    device = [stats["peak_bytes_in_use"] for d in jax.local_devices() if (stats := d.memory_stats() or {})]
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return {"memory/process_peak_bytes": process} | ({"memory/device_peak_bytes": float(max(device))} if device else {})


def _step_of(line: str) -> float:
    """The step of a line; a line that a kill cut off counts as after every step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
