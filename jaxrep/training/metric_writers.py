"""Write metrics to a progress bar or the log, metrics.jsonl, TensorBoard and Weights & Biases."""

import contextlib
import datetime
import importlib.util
import json
import logging
import math
import resource
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrep.disk_cache import write_atomically
from jaxrep.errors import UsageError
from jaxrep.recipe import Logging, Recipe
from jaxrep.runs import layout
from jaxrep.spec_json import redacted, to_json
from jaxrep.step.flops import StepFlops

LOG = logging.getLogger(__name__)


class MetricWriter(Protocol):
    """Write the metrics of a step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """Append one JSON object per logged step to metrics.jsonl.

    A resumed run drops the lines after the step that it resumes at.
    """

    def __init__(self, path: Path, resumed_at: int):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        kept = "".join(line + "\n" for line in text.splitlines() if _step_of(line) <= resumed_at)
        write_atomically(path, lambda file: file.write(kept.encode()))  # a link becomes a file
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        # JSON has no NaN: a number that is not finite is written as null.
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Write event files for TensorBoard, without the writer thread of tensorboardX, which hangs on a full disk."""

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
    """Write to a run in Weights & Biases; a resumed run keeps its id."""

    def __init__(self, project: str, run_dir: Path, recipe: Recipe):
        import wandb  # pyright: ignore[reportMissingImports]

        marker = run_dir / layout.WANDB_ID
        if not marker.exists():
            write_atomically(marker, lambda file: file.write(wandb.util.generate_id().encode()))
        config = redacted(to_json(recipe))
        self._run = wandb.init(project=project, id=marker.read_text(), resume="allow", dir=str(run_dir), config=config)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class MetricLogger:
    """Send the metrics of logged steps to the writers, without waiting for the device.

    The arrays of one logged step are fetched when the next one is logged. A terminal shows a progress bar; elsewhere
    each logged step is one line of the log.
    """

    def __init__(self, recipe: Recipe, run_dir: Path, resumed_at: int, total_steps: int, main: bool):
        self.latest: dict[str, float] = {}
        """The last metrics that were fetched."""
        self.latest_step = resumed_at
        """The step of these metrics."""
        self._recipe, self._total_steps, self._first_step = recipe, total_steps, resumed_at
        self._flops: StepFlops | None = None
        self._waited = self._saved = 0.0
        self._writers = _writers(recipe, run_dir, resumed_at) if main else []
        self._pending: tuple[int, dict[str, Any], dict[str, float]] | None = None
        self._started = self._since = time.perf_counter()
        self._since_step = resumed_at
        console = Console(stderr=True)
        self._plain = main and not console.is_terminal
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} examples/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not main or self._plain,
        )
        self._task = self._progress.add_task("train", total=total_steps, completed=resumed_at, loss="-", rate="-")
        self._progress.start()

    def advance(self, step: int, data_wait: float, flops: StepFlops) -> None:
        """Count a step: the seconds that it waited for its batch, and its floating-point operations."""
        self._waited += data_wait
        self._flops = flops if self._flops is None else self._flops + flops
        self._progress.update(self._task, completed=step)

    def log(self, step: int, metrics: dict[str, Any], host: dict[str, float]) -> None:
        """Take the metrics of a logged step, on the device and of this host; write those of the step logged before."""
        now = time.perf_counter()
        steps, seconds = step - self._since_step, max(now - self._since, 1e-9)
        speed = {
            "examples_per_second": steps * self._recipe.data.batch_size / seconds,
            "data_wait": self._waited / seconds,
            "checkpoint_wait": self._saved / seconds,
        }
        if self._flops:
            speed |= self._flops.utilization(seconds, jax.device_count())
        self._since, self._since_step, self._waited, self._saved, self._flops = now, step, 0.0, 0.0, None
        if step % self._recipe.log.every_steps:  # logged for an evaluation or as the last step: not measured
            metrics = {name: value for name, value in metrics.items() if not name.startswith("embeddings/")}
        self.flush()
        self._pending = (step, metrics, {**speed, **host})

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of evaluations to the logged step; their time does not count as training."""
        if metrics and self._pending is not None:
            self._pending[2].update(metrics)
            self._since = time.perf_counter()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Count the time within as time that the loop waits for a checkpoint."""
        start = time.perf_counter()
        yield
        self._saved += time.perf_counter() - start

    def flush(self) -> None:
        """Write the pending metrics; wait for the device if it has not computed them."""
        if self._pending is None:
            return
        step, metrics, host = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.latest, self.latest_step = values, step
        for writer in self._writers:
            writer.write(step, {"examples": float(step * self._recipe.data.batch_size), **values, **host})
        rate = f"{host['examples_per_second']:,.0f}"
        self._progress.update(self._task, loss=f"{values['loss']:.4f}", rate=rate)
        if self._plain:
            per_step = (time.perf_counter() - self._started) / max(step - self._first_step, 1)
            left = datetime.timedelta(seconds=round(per_step * (self._total_steps - step)))
            learning = f"loss {values['loss']:.4f}, learning rate {values.get('learning_rate', math.nan):.3g}"
            LOG.info("step %d of %d: %s, %s examples/s, %s left", step, self._total_steps, learning, rate, left)

    def close(self) -> None:
        """Write the pending metrics and close the writers."""
        self.flush()
        self._progress.stop()
        for writer in self._writers:
            writer.close()


def check_writers(spec: Logging) -> None:
    """Check that the packages are installed which the writers need. Raises UsageError."""
    if spec.wandb and importlib.util.find_spec("wandb") is None:
        raise UsageError("log.wandb needs the package wandb, which is not installed: pip install 'jaxrep[wandb]'")


def _writers(recipe: Recipe, run_dir: Path, resumed_at: int) -> list[MetricWriter]:
    writers: list[MetricWriter] = [JsonlWriter(run_dir / layout.METRICS, resumed_at)]
    if recipe.log.tensorboard:
        writers.append(TensorBoardWriter(run_dir / layout.TENSORBOARD))
    if recipe.log.wandb:
        writers.append(WandbWriter(recipe.log.wandb, run_dir, recipe))
    return writers


def device_memory() -> dict[str, float]:
    """Return the peak memory so far, in bytes: of the fullest local device if it reports it, and of this process."""
    device = [stats["peak_bytes_in_use"] for d in jax.local_devices() if (stats := d.memory_stats() or {})]
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return {"memory/process_peak_bytes": process} | ({"memory/device_peak_bytes": float(max(device))} if device else {})


def _step_of(line: str) -> float:
    """Return the step of a line; a line that was cut off counts as after every step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
