"""Measure images per second from tars of JPEGs to uint8 [B,224,224,3]: jaxrep, webdataset, and Pillow in grain.

    python -m benchmarks.data --case crops --out data.json

The tars hold 2,000 photographs (``tests/helpers/photos.py``) at quality 90. Each loader has two
workers (and jaxrep one as well), shuffles alike, runs without end and gives batches of 64; the first four batches do
not count. The loaders take
turns of equal length, and the best turn counts, so that other load on the machine disturbs all alike.

The peers do to a picture what torchvision's transforms do to one from Pillow, in open_clip's order: decode, crop,
bicubic antialiased resize. ``floats``: as in open_clip's training they also convert to normalized float32, which jaxrep
does on the device.
"""

import argparse
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.flags
import grain
import numpy as np
from PIL import Image

from jaxrep.data import HostRandomResizedCrop, Shuffle, TarShards
from jaxrep.data.images import decode, jpeg
from jaxrep.data.loading.loader import Loader
from tests.helpers import photos

SIZE, BATCH, WORKERS, SHARDS = 224, 64, 2, 4
WARM_UP = 4
"""Batches that do not count, while workers start."""
CASES = {"crops": (400, 300, (0.08, 1.0)), "open_clip": (640, 480, (0.9, 1.0))}
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # open_clip's

Scale = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a loader's turn")
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where tars are kept for the next run (default: nowhere)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not absl.flags.FLAGS.is_parsed():  # grain reads them
        absl.flags.FLAGS.mark_as_parsed()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["JAXREP_CACHE"] = temporary
        for case in arguments.case:
            width, height, scale = CASES[case]
            folder = (arguments.folder or Path(temporary)) / f"{width}x{height}-q{arguments.quality}"
            pattern = tars(folder, arguments.images, width, height, arguments.quality)
            best = best_rates(loaders(pattern, scale), arguments.seconds, arguments.repeats)
            results += [{"case": case, "loader": name, "images_per_second": rate} for name, rate in best.items()]
            print_rates(f"{width} x {height}, scale {scale}", best)
            # processor time, which other load on the machine disturbs less
            stages = jaxrep_stages(pattern, scale) | pillow_stages(pattern, scale)
            results += [{"case": case, "stage": name, "microseconds": time} for name, time in stages.items()]
            print("\n".join(f"  {name:<40} {value:7.0f} us" for name, value in stages.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "rows": results}, indent=1))


def tars(folder: Path, count: int, width: int, height: int, quality: int) -> str:
    """Write the pictures in four shards if they do not exist, and return the pattern of their names."""
    if not folder.exists():
        folder.mkdir(parents=True)
        pictures = photos.jpegs(count, width, height, quality)
        for shard in range(SHARDS):
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for number, content in enumerate(itertools.islice(pictures, count // SHARDS)):
                    for name, value in ((f"{number:06}.jpg", content), (f"{number:06}.txt", b"a photograph")):
                        member = tarfile.TarInfo(name)
                        member.size = len(value)
                        tar.addfile(member, io.BytesIO(value))
    return f"{folder}/{{0..{SHARDS - 1}}}.tar"


def loaders(pattern: str, scale: Scale) -> dict[str, Callable[[], Iterator[Any]]]:
    """Return a function per loader that starts it; those of packages that are not installed are left out."""
    functions = {
        "webdataset, Pillow": functools.partial(webdataset, pattern, scale, floats=False),
        "webdataset, Pillow, floats": functools.partial(webdataset, pattern, scale, floats=True),
        "grain processes, Pillow": functools.partial(pillow_in_grain, pattern, scale, processes=True),
        "grain threads, Pillow": functools.partial(pillow_in_grain, pattern, scale, processes=False),
        "jaxrep, 1 thread": functools.partial(jaxrep, pattern, scale, workers=0, threads=1),
        "jaxrep, 2 threads": functools.partial(jaxrep, pattern, scale, workers=0, threads=WORKERS),
        "jaxrep, 1 process": functools.partial(jaxrep, pattern, scale, workers=1, threads=1),
        "jaxrep, 2 processes": functools.partial(jaxrep, pattern, scale, workers=WORKERS, threads=1),
    }
    if any(importlib.util.find_spec(package) is None for package in ("torch", "webdataset")):
        print("webdataset or torch is not installed (extra bench): it is left out")
        functions = {name: start for name, start in functions.items() if not name.startswith("webdataset")}
    return functions


def best_rates(starts: dict[str, Callable[[], Iterator[Any]]], seconds: float, repeats: int) -> dict[str, float]:
    """Return images per second of each loader, the best of its turns."""
    rates: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(repeats):
        for name, start in starts.items():
            batches = start()
            for _ in range(WARM_UP):
                next(batches)
            count, begin, took = 0, time.perf_counter(), 0.0
            while took < seconds:
                next(batches)
                count, took = count + 1, time.perf_counter() - begin
            rates[name].append(count * BATCH / took)
            batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    return {name: max(values) for name, values in rates.items()}


# Loaders: generators that end their workers when they are closed ------------------------------------------------------


def jaxrep(pattern: str, scale: Scale, workers: int, threads: int) -> Iterator[Any]:
    examples = source(pattern, scale).open()
    loader = Loader(examples, Shuffle().indices(examples, BATCH), BATCH, workers=workers, threads=threads)
    try:
        yield from loader
    finally:
        loader.close()


def source(pattern: str, scale: Scale) -> TarShards:
    return TarShards(shards=pattern, image_size=SIZE, crop=HostRandomResizedCrop(scale=scale))


def webdataset(pattern: str, scale: Scale, floats: bool) -> Iterator[Any]:
    import torch
    import webdataset as wds  # pyright: ignore[reportMissingImports]

    pictures: Any = wds.WebDataset(  # pyright: ignore[reportAttributeAccessIssue]
        pattern, shardshuffle=False
    )
    pictures = pictures.repeat().to_tuple("jpg", "txt")
    pictures = pictures.map_tuple(functools.partial(as_torchvision, scale=scale, floats=floats), bytes.decode)
    yield from torch.utils.data.DataLoader(pictures, batch_size=BATCH, num_workers=WORKERS)


def pillow_in_grain(pattern: str, scale: Scale, processes: bool) -> Iterator[Any]:
    examples = source(pattern, scale).open()
    pictures = grain.MapDataset.source(Members(examples)).shuffle(seed=0).repeat()
    pictures = pictures.map(functools.partial(as_torchvision, scale=scale)).batch(BATCH)
    reads = pictures.to_iter_dataset(
        grain.ReadOptions(num_threads=1 if processes else WORKERS, prefetch_buffer_size=2 * WORKERS)
    )
    if processes:
        reads = reads.mp_prefetch(grain.MultiprocessingOptions(num_workers=WORKERS))
    batches = iter(reads)
    try:
        yield from batches
    finally:
        batches.close()


class Members:
    """Read the JPEG files in tars by jaxrep's index."""

    def __init__(self, examples: Any):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> bytes:
        return self.examples.content(index, "image")


# The transforms of torchvision ----------------------------------------------------------------------------------


def as_torchvision(content: bytes, scale: Scale, floats: bool = False) -> Any:
    """Apply RandomResizedCrop to a picture of Pillow: uint8 [224,224,3], or normalized float32 [3,224,224]."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    pixels = np.array(cropped(image, *torchvision_box(image.width, image.height, scale)))
    if not floats:
        return pixels
    import torch

    values = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, deviation = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (MEAN, DEVIATION))
    return values.sub_(mean).div_(deviation)


def cropped(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def torchvision_box(width: int, height: int, scale: Scale) -> tuple[int, int, int, int]:
    """Draw left, top, width and height as torchvision does."""
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


# Time by stage, in one thread ----------------------------------------------------------------------------------


def jaxrep_stages(pattern: str, scale: Scale, count: int = 200) -> dict[str, float]:
    """Return microseconds of processor time per picture, by stage."""
    examples: Any = source(pattern, scale).open()
    crop = examples.source.crop
    contents = [examples.content(index, "image") for index in range(count)]
    sizes: Any = [jpeg.plain_size(content) for content in contents]
    boxes = [crop.box(*size, 1.0, key) for key, size in enumerate(sizes)]
    jobs: Any = list(zip(contents, sizes, boxes, strict=True))
    decoded = [jpeg.decode_box(content, size, box, SIZE, SIZE) for content, size, box in jobs]
    return {
        "jaxrep: read from the tar": microseconds(lambda i: examples.content(i, "image"), range(count)),
        "jaxrep: header": microseconds(jpeg.plain_size, contents),
        "jaxrep: draw the box": microseconds(lambda key: crop.box(400, 300, 1.0, key), range(count)),
        "jaxrep: decode (simplejpeg)": microseconds(
            lambda job: jpeg.decode_box(job[0], job[1], job[2], SIZE, SIZE), jobs
        ),
        "jaxrep: resize (OpenCV)": microseconds(lambda pixels: decode.resize(pixels, SIZE, SIZE), decoded),
        "jaxrep: all, with text and ids": microseconds(
            lambda i: examples.decoded(i, examples.contents(i), i), range(count)
        ),
    }


def pillow_stages(pattern: str, scale: Scale, count: int = 200) -> dict[str, float]:
    """Return microseconds of processor time per picture, by stage."""
    examples: Any = source(pattern, scale).open()
    contents = [examples.content(index, "image") for index in range(count)]
    decoded = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    boxes = [torchvision_box(image.width, image.height, scale) for image in decoded]
    return {
        "Pillow: decode": microseconds(lambda content: Image.open(io.BytesIO(content)).convert("RGB"), contents),
        "Pillow: crop and resize": microseconds(
            lambda job: cropped(job[0], *job[1]), list(zip(decoded, boxes, strict=True))
        ),
        "Pillow: all": microseconds(lambda i: as_torchvision(examples.content(i, "image"), scale), range(count)),
        "Pillow: all, floats": microseconds(
            lambda i: as_torchvision(examples.content(i, "image"), scale, True), range(count)
        ),
    }


def microseconds(function: Callable[[Any], Any], items: Any, repeats: int = 3) -> float:
    """Return microseconds of processor time per item, the best of some passes."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        for item in items:
            function(item)
        times.append(time.thread_time() - start)
    return min(times) / len(items) * 1e6


def print_rates(title: str, rates: dict[str, float]) -> None:
    """Print images per second, and how many times as fast the loaders of jaxrep are."""
    best = max(rate for name, rate in rates.items() if name.startswith("jaxrep"))
    print(f"{title}: images per second, and how many times as fast the best of jaxrep is")
    print("\n".join(f"  {name:<40} {rate:7.0f}  {best / rate:5.2f}x" for name, rate in rates.items()))


if __name__ == "__main__":
    main()
