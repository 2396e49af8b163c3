"""docs/performance.md and its pictures from the results; what is written by hand between the blocks stays."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench import plots
from tests.bench.benchmark import Benchmark
from tests.bench.peers.environment import ROOT, versions_of
from tests.bench.results import GoalResult, Results, Row

PAGE: Final = ROOT / "docs/performance.md"
REQUIREMENTS: Final = ROOT / "requirements"
OUR_PACKAGES: Final = (
    *("anthropic", "asyncpg", "celery", "fastapi", "gunicorn", "redis", "sqlalchemy"),
    "uvicorn",
)
PEER_PACKAGES: Final = {
    "arq": "arq",
    "celery": "celery",
    "dbos": "dbos",
    "dramatiq": "dramatiq",
    "procrastinate": "procrastinate",
    "rq": "rq",
    "taskiq": "taskiq",
}
SKELETON: Final = "# Performance\n\n<!-- bench:goals -->\n<!-- /bench:goals -->\n"


def write(results: Results, benchmarks: Mapping[str, Benchmark], page: Path = PAGE) -> None:
    """Bring the page's blocks and the pictures up to date."""
    text = page.read_text() if page.exists() else SKELETON
    text = put(text, "goals", "\n".join(goals_block(results, benchmarks)))
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    for benchmark in benchmarks.values():
        rows = [row for row in results["rows"] if row["benchmark"] == benchmark.name]
        if rows:
            text = put(text, benchmark.name, "\n".join(measure_block(benchmark, rows)))
            (images / f"bench-{benchmark.name}.svg").write_text(_picture(benchmark, rows))
    page.write_text(text)


def put(text: str, block: str, content: str) -> str:
    """The text with a block's content replaced; a new block goes to the end."""
    begin, end = f"<!-- bench:{block} -->\n", f"<!-- /bench:{block} -->\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}{end}"
    return re.sub(
        re.escape(begin) + ".*?" + re.escape(end),
        lambda _: f"{begin}\n{content.strip()}\n\n{end}",
        text,
        flags=re.DOTALL,
    )


def goals_block(results: Results, benchmarks: Mapping[str, Benchmark]) -> Iterator[str]:
    """The goals in the order of their benchmarks, then what everything ran on."""
    yield "| goal | bound | measured | | measure |"
    yield "|---|---|---|---|---|"
    for name, benchmark in benchmarks.items():
        own = [goal for goal in results["goals"] if goal["benchmark"] == name]
        for goal in own:
            verdict = "met" if goal["met"] else "**missed**"
            bound = f"{goal['goal']} {goal['unit']}".strip()
            measure = f"[{name}](#{anchor(benchmark.title)})"
            yield f"| {goal['name']} | {bound} | {_figure(goal)} | {verdict} | {measure} |"
        for lost in benchmark.goals if not own else ():
            sign = "≤" if lost.is_at_most else "≥"
            yield f"| {lost.name} | {sign} {lost.bound:g} {lost.unit} | not yet | | {name} |"
    yield from ("", *_machine(results))


def told_goal(goal: GoalResult) -> str:
    """A line about a goal for the terminal."""
    verdict = "met" if goal["met"] else "MISSED"
    return f"{verdict}: {goal['name']}: {_figure(goal)} ({goal['goal']} {goal['unit']})"


def measure_block(benchmark: Benchmark, rows: Sequence[Row]) -> Iterator[str]:
    """A measure's title, picture and table, with the ratio of its first value to Penstock's."""
    picture = f"images/bench-{benchmark.name}.svg"
    yield f"## {benchmark.title}\n\n{benchmark.what}\n\n![{benchmark.title}]({picture})\n"
    values = [value for value in benchmark.units if any(row["value"] == value for row in rows)]
    heads = [_head(value, benchmark.units[value]) for value in values]
    yield f"| subject | {' | '.join(heads)} | ratio |"
    yield "|---|" + "---:|" * (len(heads) + 1)
    by_place = {(row["subject"], row["value"]): row for row in rows}
    ours = by_place.get((plots.OURS, values[0]))
    for subject in dict.fromkeys(row["subject"] for row in rows):
        own = [by_place.get((subject, value)) for value in values]
        cells = " | ".join(_cell(row) for row in own)
        yield f"| {subject} | {cells} | {_ratio(own[0], ours)} |"
    times = sorted({row["rounds"] for row in rows})
    count = f"{times[0]}" if len(times) == 1 else f"{times[0]} to {times[-1]}"
    yield (
        f"\nMedian (min to max) of {count} rounds; ratio: {_words(values[0])} to Penstock's. "
        f"Load average before: {rows[0]['load']:.1f}. `make bench NAME={benchmark.name}`"
    )


def anchor(title: str) -> str:
    """What a heading is reached by."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _picture(benchmark: Benchmark, rows: Sequence[Row]) -> str:
    value = next(value for value in benchmark.units if any(row["value"] == value for row in rows))
    shown = [row for row in rows if row["value"] == value]
    return plots.draw(f"{benchmark.title}: {_words(value)}", shown)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    middle, low, high = (plots.number(value) for value in (row["median"], row["min"], row["max"]))
    return middle if low == high else f"{middle} ({low} to {high})"


def _ratio(row: Row | None, ours: Row | None) -> str:
    if row is None or ours is None or not ours["median"]:
        return "–"
    return f"{row['median'] / ours['median']:.2f}"


def _figure(goal: GoalResult) -> str:
    measured = goal["measured"]
    return "failed" if measured is None else f"{plots.number(measured)} {goal['unit']}".strip()


def _head(value: str, unit: str) -> str:
    return f"{_words(value)}, {unit}" if unit else _words(value)


def _words(value: str) -> str:
    """A value's name without its unit: `cpu_ms` is in a column that says ms."""
    return re.sub(r"_(ms|s|mib|kib|usd)$", "", value).replace("_", " ")


def _machine(results: Results) -> Iterator[str]:
    if not results["machine"]:
        return
    about = results["machine"]
    yield (
        f"Machine: {about['processor']}, {about['cores']} cores, {about['memory']}, {about['system']}, "
        f"Python {about['python']}; servers and load share it.\n"
    )
    yield f"Penstock runs on {_listed(versions_of(REQUIREMENTS / 'runtime.txt', *OUR_PACKAGES))}."
    peers = {
        package: versions_of(REQUIREMENTS / f"bench-{peer}.txt", package)[package]
        for peer, package in PEER_PACKAGES.items()
    }
    yield f"Peers: {_listed(peers)}."


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
