"""Data preparation: how fast, how soon again when little is new, and how much memory for how many images?

    python benchmarks/data.py [--data FOLDER] [--images 10000] [--quick] [--skip-million] [--scratch FOLDER] [--json]

Throughput, on JPEGs of 150 pixels made 64: beside torchvision's ImageFolder in a DataLoader with as many processes, and
beside a bare loop of simplejpeg and OpenCV in as many, which keeps nothing. All three take turns over files that were
just read. Again, on the same and on JPEGs of 600 pixels. Memory, on PPM files of 32 pixels: what `steelyard prepare`
says of itself. A million of them take 9 GB below --scratch for a while.
"""

import argparse
import gc
import io
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import Process
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from steelyard.data.prepare import prepare
from steelyard.data.workers import processes
from steelyard.params import Data

try:
    import cv2
except ImportError:
    cv2 = None

ROUNDS = 3
PHOTO, LARGE, SIDE, SMALL = 150, 600, 64, 32  # pixels
CLASSES = 10
WORKERS = processes()
BYTES_EACH = 9000  # of a small image on disk: its file, its pixels, its row of the catalog

Figures = dict[str, float | str]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("STEELYARD_TEST_DATA"), help="folder of JPEGs of 150 pixels")
    parser.add_argument("--images", type=int, default=10_000, help="for throughput and preparing again")
    parser.add_argument("--quick", action="store_true", help="a smoke run on few images")
    parser.add_argument("--skip-million", action="store_true", help="stop at 100,000 images for memory")
    parser.add_argument("--scratch", help="where files are made (default: the system's place for them)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # what prepare says of these images
    images = 600 if arguments.quick else arguments.images
    sizes = [1000, 2000] if arguments.quick else [10_000, 100_000] + [1_000_000] * (not arguments.skip_million)
    with TemporaryDirectory(dir=arguments.scratch) as scratch:
        figures = throughput_and_again(Path(scratch), arguments.data, images) | memory(Path(scratch), sizes)
    lines = (
        f"{name:50} {figure if isinstance(figure, str) else f'{figure:g}':>10}" for name, figure in figures.items()
    )
    print(json.dumps(figures, indent=1) if arguments.json else "\n".join(lines))


def throughput_and_again(scratch: Path, data: str | None, images: int) -> Figures:
    """Return images per second of each contender, and what it costs to prepare again when 1 % is new."""
    photos, new = scratch / "photos", scratch / "new"
    bases = given_photos(data) if data else made_photos(300)
    for folder, numbers in (photos, range(images)), (new, range(images, images + images // 100)):
        with ProcessPoolExecutor(WORKERS) as executor:
            list(executor.map(partial(write_copies, folder, bases), (numbers[n::WORKERS] for n in range(WORKERS))))
    size = statistics.mean(file.stat().st_size for file in photos.rglob("*.jpg")) / 1024
    kind = "given photos" if data else "photos made here, of smooth random fields and noise"
    figures: Figures = {"photos": f"{images} copies of {len(bases)} {kind}, {size:.1f} KiB each, {WORKERS} processes"}
    figures |= throughput(scratch, photos)
    figures |= again(scratch, photos, new, PHOTO)
    for folder in photos, new:
        with ProcessPoolExecutor(WORKERS) as executor:
            list(executor.map(enlarge, folder.rglob("*.jpg"), chunksize=64))
    figures |= again(scratch, photos, new, LARGE)
    shutil.rmtree(photos)
    return figures


def throughput(scratch: Path, photos: Path) -> Figures:
    """Let the contenders take turns, and return the medians."""
    files = [
        file.read_bytes() and file for file in photos.rglob("*.jpg")
    ]  # read: as warm for the first as for the last
    contenders: dict[str, Callable[[], object]] = {
        "prepare": lambda: fresh(scratch, photos),
        "DataLoader": lambda: iterate(photos),
        "bare loop": lambda: in_processes(decode_and_resize, files),
        "bare loop, decoded at half size": lambda: in_processes(decode_half_and_resize, files),
        "decoding alone": lambda: in_processes(decode_all, files),
    }
    prepare(Data(source="digits", image_size=16, grayscale=True), "classification", scratch / "digits")  # imports all
    rounds = [{name: seconds(work) for name, work in contenders.items()} for _ in range(ROUNDS)]
    rates = {name: len(files) / statistics.median(took[name] for took in rounds) for name in contenders}
    ratios = {name: statistics.median(took[name] / took["prepare"] for took in rounds) for name in contenders}
    figures: Figures = {f"{name}, images/s": round(rate) for name, rate in rates.items()}
    figures["prepare / DataLoader (wanted: at least 1.3)"] = round(ratios["DataLoader"], 2)
    figures["prepare / bare loop (wanted: at least 0.8)"] = round(ratios["bare loop"], 2)
    figures["prepare / bare loop, decoded at half size"] = round(ratios["bare loop, decoded at half size"], 2)
    return figures


def again(scratch: Path, photos: Path, new: Path, side: int) -> Figures:
    """Return how long it takes to prepare photos, and again when some were added: medians."""
    firsts, agains, ratios = [], [], []
    for _ in range(ROUNDS):
        firsts.append(seconds(lambda: fresh(scratch, photos)))
        shutil.copytree(new, photos, dirs_exist_ok=True)
        agains.append(seconds(lambda: prepare_photos(scratch, photos)))
        ratios.append(agains[-1] / firsts[-1])
        for file in new.rglob("*.jpg"):
            (photos / file.relative_to(new)).unlink()
    return {
        f"{side} px: prepared first, s": round(statistics.median(firsts), 2),
        f"{side} px: again with 1 % more, s": round(statistics.median(agains), 2),
        f"{side} px: again / first (wanted: at most 0.05)": round(statistics.median(ratios), 3),
    }


def memory(scratch: Path, sizes: list[int]) -> Figures:
    """Return the peak memory of preparing each of these numbers of images."""
    folder, figures, peaks, there = scratch / "small", Figures(), [], 0
    refuse_full_disk(scratch, sizes[-1])
    for size in sizes:
        with ProcessPoolExecutor(WORKERS) as executor:
            list(executor.map(partial(write_small, folder), range(there, size, 1000)))
        there = size
        answer = prepare_in_a_process(scratch, folder)
        figures[f"{size:,} PPM images of {SMALL} px: s"] = round(answer["seconds"], 1)
        figures[f"{size:,} PPM images of {SMALL} px: images/s"] = round(answer["images_per_s"])
        figures[f"{size:,} PPM images of {SMALL} px: peak MiB"] = answer["peak_mib"]
        peaks.append(answer["peak_mib"])
    return figures | {f"peak at {sizes[-1]:,} / peak at {sizes[0]:,}": round(peaks[-1] / peaks[0], 2)}


def seconds(work: Callable[[], object]) -> float:
    """Return how long it takes, without the collector of cycles, which would look through all of torch (as timeit)."""
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    work()
    ended = time.perf_counter()
    gc.enable()
    return ended - began


def fresh(scratch: Path, photos: Path) -> None:
    """Prepare where nothing was prepared before."""
    shutil.rmtree(scratch / "dataset", ignore_errors=True)
    prepare_photos(scratch, photos)


def prepare_photos(scratch: Path, photos: Path) -> None:
    prepare(Data(source=str(photos), image_size=SIDE), "classification", scratch / "dataset", workers=WORKERS)


def iterate(photos: Path) -> None:
    """Go once through what torchvision reads."""
    steps = transforms.Compose([transforms.Resize((SIDE, SIDE), antialias=True), transforms.PILToTensor()])
    for _ in DataLoader(ImageFolder(str(photos), steps), batch_size=128, num_workers=WORKERS):
        pass


def in_processes(work: Callable[[list[Path]], None], files: list[Path]) -> None:
    """Give each of as many processes its share of the files."""
    started = [Process(target=work, args=(files[number::WORKERS],)) for number in range(WORKERS)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        sys.exit("a process of the bare loop failed")


def decode_all(files: list[Path]) -> None:
    """Read and decode."""
    for file in files:
        simplejpeg.decode_jpeg(file.read_bytes())


def decode_and_resize(files: list[Path]) -> None:
    """Read, decode and resize."""
    resize = fastest_resize()
    for file in files:
        resize(simplejpeg.decode_jpeg(file.read_bytes()))


def decode_half_and_resize(files: list[Path]) -> None:
    """Read, decode as `prepare` does what is more than twice too large, and resize."""
    resize, half = fastest_resize(), PHOTO // 2
    for file in files:
        resize(simplejpeg.decode_jpeg(file.read_bytes(), min_height=half, min_width=half, min_factor=1))


def fastest_resize() -> Callable[[NDArray[np.uint8]], object]:
    if cv2 is None:
        return lambda pixels_HWC: np.asarray(Image.fromarray(pixels_HWC).resize((SIDE, SIDE), Image.Resampling.BOX))
    cv2.setNumThreads(1)  # there is a process for each processor
    return lambda pixels_HWC: cv2.resize(pixels_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def prepare_in_a_process(scratch: Path, source: Path) -> dict[str, float]:
    """Return what `steelyard prepare --json` answers.

    A shell starts it: Linux counts the memory of whoever calls exec as the new program's own, and this one is large.
    """
    params, output = scratch / "params.yaml", scratch / "output"
    params.write_text(f"task: classification\ndata: {{source: {json.dumps(str(source))}, image_size: {SMALL}}}\n")
    command = [sys.executable, "-m", "pipelines", "prepare", str(params), "--output", str(output), "--json"]
    shell = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    answer: dict[str, float] = json.loads(subprocess.run(shell, check=True, stdout=subprocess.PIPE).stdout)
    shutil.rmtree(output)
    return answer


def refuse_full_disk(scratch: Path, images: int) -> None:
    """Say so at once rather than after minutes."""
    system = os.statvfs(scratch)
    room = min(system.f_bavail * system.f_frsize // BYTES_EACH, system.f_favail or images)
    if room < images:
        sys.exit(f"{scratch}: has room for {room:,} small images, not for {images:,}; try --skip-million or --scratch")


def given_photos(folder: str) -> list[bytes]:
    """Return the JPEG files below a folder."""
    photos = [file.read_bytes() for file in sorted(Path(folder).rglob("*.jp*g"))]
    return photos or sys.exit(f"{folder}: has no JPEG files")


def made_photos(count: int) -> list[bytes]:
    """Return JPEG files of smooth random fields and noise."""
    rng = np.random.default_rng(0)
    fields_NHWC = smooth_fields(rng, count, 12, PHOTO)
    noisy_NHWC = fields_NHWC + rng.normal(0, 10, (count, PHOTO, PHOTO, 1))
    return [jpeg(Image.fromarray(image_HWC)) for image_HWC in noisy_NHWC.clip(0, 255).astype(np.uint8)]


def write_copies(folder: Path, bases: list[bytes], numbers: range) -> None:
    """Write a copy for each number, of which one pixel is changed, so that no two are the same."""
    for number in numbers:
        image = Image.open(io.BytesIO(bases[number % len(bases)])).convert("RGB")
        place = divmod(number * 7919 % (image.width * image.height), image.width)[::-1]
        image.putpixel(place, tuple(255 * (level < 128) for level in image.getpixel(place)))
        write(folder, number, "jpg", jpeg(image))


def enlarge(file: Path) -> None:
    """Write a photo anew, LARGE pixels wide and high."""
    file.write_bytes(jpeg(Image.open(file).resize((LARGE, LARGE), Image.Resampling.BICUBIC)))


def write_small(folder: Path, first: int) -> None:
    """Write 1,000 images, each another smooth random field, from a number on."""
    rng = np.random.default_rng(first)
    for number, image_HWC in enumerate(smooth_fields(rng, 1000, 6, SMALL).clip(0, 255).astype(np.uint8), first):
        write(folder, number, "ppm", b"P6 %d %d 255\n" % (SMALL, SMALL) + image_HWC.tobytes())


def write(folder: Path, number: int, suffix: str, content: bytes) -> None:
    """Write a file below its class's folder, at most 1,000 to a folder."""
    file = folder / f"class{number % CLASSES}" / str(number // (1000 * CLASSES)) / f"{number}.{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def smooth_fields(rng: np.random.Generator, count: int, knots: int, side: int) -> NDArray[np.float64]:
    """Return images that change smoothly between random colours at knots x knots points."""
    knots_NKLC = rng.normal(128, 60, (count, knots, knots, 3))
    weights_KS = [np.interp(np.linspace(0, knots - 1, side), np.arange(knots), one) for one in np.eye(knots)]
    return np.einsum("kh,nklc,lw->nhwc", weights_KS, knots_NKLC, weights_KS, optimize=True)


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
