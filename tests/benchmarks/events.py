"""The stream: parsing, folding and collecting in the documented mix, beside what one would write first."""

import multiprocessing
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition

from pipelines.data import viewings
from pipelines.data.batches import list_batches
from pipelines.data.collect import collect
from pipelines.data.folding import fold
from pipelines.events.grammar import Watch, parse
from pipelines.events.librdkafka import LibrdkafkaSource
from pipelines.events.lines import Lines
from pipelines.events.parsing import parse_lines
from pipelines.events.sources import FileSource, KafkaSource
from pipelines.local import broker
from tests.benchmarks.report import Report
from tests.benchmarks.stream import stream
from tests.broker import TOOLS_DIR, Kafka
from tests.ports import free_ports

SECTION = "Events"
LINES = 500_000
PARTITION_LINES = 2_000_000
TWO_DAYS_LINES = 86_000_000


def run(report: Report) -> None:
    """Measure the pieces in memory, then all of it from a real broker."""
    with tempfile.TemporaryDirectory() as name:
        pieces(report, Path(name))
        home = broker.find_home(TOOLS_DIR)
        if isinstance(home, broker.Unavailable):
            report.console.print(f"without a broker: {home.reason}")
            return
        with started(Kafka(home, Path(name) / "kafka", *free_ports(2))) as kafka:
            from_a_broker(report, kafka, Path(name) / "batches")


def pieces(report: Report, folder: Path) -> None:
    """Parse, fold and collect what one batch holds."""
    lines = list(stream(LINES))
    chunks = [Lines.of(range(at, at + 20_000), lines[at : at + 20_000]) for at in range(0, LINES, 20_000)]
    ours = rate(partial(parse_lines, chunks))
    add(report, "parse", ours, rate(lambda: [parse(line) for line in lines]), "the grammar, line by line")
    add(report, "parse", ours, rate(lambda: [naive(line) for line in lines]), NAIVE)
    parsed = parse_lines(chunks)
    minutes = pd.DataFrame(
        {name: getattr(parsed.watched, name) for name in ("offset", "time", "user", "movie", "minute")}
    )
    add(
        report,
        "fold watched minutes",
        rate(lambda: viewings.fold(parsed.watched)),
        rate(lambda: by_pandas(minutes)),
        "drop_duplicates and groupby of pandas",
    )
    log = folder / "one.log"
    log.write_bytes(b"\n".join(lines) + b"\n")
    add(
        report,
        "parse and fold",
        rate(lambda: fold(parse_lines(chunks))),
        rate(lambda: by_dictionary(lines)),
        "the grammar into a dictionary, line by line",
    )
    outs = iter([folder / "first", folder / "second"])
    add(report, "collect a file into batches", rate(lambda: collect(FileSource(log), next(outs))))


def from_a_broker(report: Report, kafka: Kafka, out: Path) -> None:
    """Collect a topic of one partition and one of two; each run is a process of its own."""
    fill(kafka, {"one": 1, "two": 2})
    bare = apart(bare_loop, kafka.servers, "one")
    one = apart(collected, KafkaSource, kafka.servers, "one", out, 1)
    both = apart(collected, KafkaSource, kafka.servers, "two", out, 1)
    two = apart(collected, KafkaSource, kafka.servers, "two", out, 2)
    fast = apart(collected, LibrdkafkaSource, kafka.servers, "one", out, 1)
    fast_two = apart(collected, LibrdkafkaSource, kafka.servers, "two", out, 2)
    bare_name = "a bare kafka-python poll loop"
    add(report, "collect a partition", one["rate"], bare["rate"], bare_name, "at least 0.7")
    add(
        report,
        "collect two partitions in two processes",
        two["rate"],
        both["rate"],
        "the same in one process",
        "at least 1.7; 100,000 lines/s",
    )
    add(report, "collect a partition by librdkafka", fast["rate"], bare["rate"], bare_name)
    add(
        report,
        "collect two partitions by librdkafka in two processes",
        fast_two["rate"],
        bare["rate"],
        bare_name,
    )
    report.add(
        SECTION,
        "CPU of collecting a million lines",
        one["cpu_s"],
        bare["cpu_s"],
        unit="s",
        rival_name=bare_name,
        better="less",
    )
    minutes = TWO_DAYS_LINES / two["rate"] / 60
    alone(report, "two days of stream, 86 million lines, by two processes", minutes, "min", "at most 15")
    wanted = "at most 1,024"
    alone(report, "peak memory of collecting, one process", one["peak_mib"], "MiB", wanted)
    alone(report, "peak memory of collecting, two processes together", two["peak_mib"], "MiB", wanted)
    alone(report, "storage of a line", one["bytes"], "bytes", "at most 6")


# --- measuring --------------------------------------------------------------------------------------


def add(
    report: Report, what: str, ours: float, rival: float | None = None, name: str = "", wanted: str = ""
) -> None:
    report.add(SECTION, what, ours, rival, unit="lines/s", rival_name=name, wanted=wanted)


def alone(report: Report, what: str, ours: float, unit: str, wanted: str) -> None:
    report.add(SECTION, what, ours, unit=unit, better="less", wanted=wanted)


def rate(work: Callable[[], object]) -> float:
    """Return lines per second of ``work`` over `LINES`; the better of two, as the first one warms up."""
    return LINES / min(seconds(work), seconds(work))


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` took, wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def apart(work: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """Do ``work`` in a fresh process and return its figures, with the peak memory of all its processes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(watched, work, *args).result()


def watched(work: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    stop, peak_mib = threading.Event(), [0.0]
    thread = threading.Thread(target=watch_memory, args=(stop, peak_mib))
    thread.start()
    try:
        figures = work(*args)
    finally:
        stop.set()
        thread.join()
    return figures | {"peak_mib": peak_mib[0]}


def watch_memory(stop: threading.Event, peak_mib: list[float]) -> None:
    """Note the most memory that this process and its children have together; shared pages count in part."""
    me = psutil.Process()
    while not stop.wait(0.5):
        with suppress(psutil.Error):  # one has just ended
            held = sum(process.memory_full_info().pss for process in (me, *me.children(recursive=True)))
            peak_mib[0] = max(peak_mib[0], held / 2**20)


def collected(
    source: type[KafkaSource], servers: str, topic: str, out: Path, processes: int
) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    reader = source(servers, topic)
    started, cpu = time.perf_counter(), cpu_s()
    result = collect(reader, out, processes=processes)
    took_s, cpu = time.perf_counter() - started, cpu_s() - cpu
    reader.close()
    stored = sum(batch.path.stat().st_size for batch in list_batches(out))
    return {
        "rate": result.lines / took_s,
        "cpu_s": cpu / result.lines * 1e6,
        "bytes": stored / result.lines,
    }


def bare_loop(servers: str, topic: str) -> dict[str, float]:
    """Poll all lines of partition 0 and do nothing with them."""
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    polled, cpu, began = 0, cpu_s(), time.perf_counter()
    while polled < PARTITION_LINES:
        polled += sum(map(len, consumer.poll(timeout_ms=500).values()))
    took_s, cpu = time.perf_counter() - began, cpu_s() - cpu
    consumer.close()
    return {"rate": polled / took_s, "cpu_s": cpu / polled * 1e6}


def cpu_s() -> float:
    """Return the CPU time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def started(kafka: Kafka) -> Iterator[Kafka]:
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


def fill(kafka: Kafka, topics: Mapping[str, int]) -> None:
    """Make the topics, each with so many partitions of `PARTITION_LINES` lines."""
    for topic, partitions in topics.items():
        kafka.create_topic(topic, partitions)
        producer = Producer({"bootstrap.servers": kafka.servers, "linger.ms": 20})
        for number, line in enumerate(stream(partitions * PARTITION_LINES)):
            while len(producer) > 90_000:
                producer.poll(0.05)
            producer.produce(topic, line, partition=number % partitions)
        producer.flush()


# --- what one would write first ---------------------------------------------------------------------

NAIVE = "split and strptime, which lose one line in sixty"


def naive(line: bytes) -> tuple[Any, ...] | None:
    """Parse as a first attempt would: split at commas, one strict time format."""
    try:
        at, user, action, *_ = line.decode().split(",")
        return datetime.strptime(at, "%Y-%m-%dT%H:%M:%S"), int(user), action.split("/")
    except ValueError:
        return None


def by_dictionary(lines: Sequence[bytes]) -> dict[tuple[int, str], set[int]]:
    """Fold line by line: the minutes of each (user, movie)."""
    seen: dict[tuple[int, str], set[int]] = {}
    for line in lines:
        if isinstance(event := parse(line), Watch):
            seen.setdefault((event.user_id, event.movie_id), set()).add(event.minute)
    return seen


def by_pandas(minutes: pd.DataFrame) -> pd.DataFrame:
    """Fold as `read_csv` users would; without the minutes themselves."""
    lines = minutes.drop_duplicates(["time", "user", "movie", "minute"])
    return lines.groupby(["movie", "user"], as_index=False).agg(
        offset=("offset", "min"),
        time=("time", "min"),
        last_time=("time", "max"),
        minutes=("minute", "nunique"),
    )
