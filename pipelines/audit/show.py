"""The audit on a terminal."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.audit.radius import Radius
from pipelines.audit.served import ServedAt
from pipelines.audit.story import Line, Section, Story, moment
from pipelines.data.quarantine import in_words
from pipelines.records.lookup import Reach, Receipt, VersionUse

_DAYS = 14
"""Days of a version's use that are listed."""
_NAMED = 5
"""From so many batches on, only the first and the last are named."""
_STYLES = {None: "dim", True: "bold green", False: "bold red"}


def story(told: Story) -> RenderableType:
    """Lay an explanation out: headline, then one block a section."""
    head = Text(told.headline, style="bold"), Text(told.when)
    return Group(*head, *(_section(section) for section in told.sections))


def served_at(state: ServedAt) -> RenderableType:
    """Lay out what was wanted at a moment and who answered whom around it."""
    window = f"{state.window.total_seconds():g} s"
    table = Table("version", "arm", "split", "answers", "share", "users", "first", "last", box=SIMPLE)
    for share in state.shares:
        table.add_row(
            f"v{share.version}",
            share.arm,
            "past NGINX" if share.canary_percent is None else f"{share.canary_percent} %",
            f"{share.answers:,}",
            f"{share.answers / state.answers:.1%}",
            f"{share.users:,}",
            f"{share.first:%H:%M:%S}",
            f"{share.last:%H:%M:%S}",
        )
    answers = table if state.shares else Text("No answer was given in that time.")
    head = Text(f"{moment(state.at)}, {window} before and after", style="bold")
    return Group(head, *_wanted(state), answers, *_lost(state))


def receipts(user_id: str, found: Sequence[Receipt]) -> RenderableType:
    """List what a user got, newest first."""
    if not found:
        return Text(f"User {user_id} got no answer in that time.")
    table = Table("at (UTC)", "version", "arm", "rung", "status", box=SIMPLE)
    # Whole on any terminal: it is what `receipt` asks for.
    table.add_column("request", no_wrap=True, min_width=max(len(receipt.request_id) for receipt in found))
    for receipt in found:
        table.add_row(
            f"{receipt.served_at:%Y-%m-%d %H:%M:%S}",
            f"v{receipt.version_number}",
            receipt.arm,
            receipt.source,
            str(receipt.status),
            Text(receipt.request_id),
        )
    hint = Text("`python -m pipelines receipt REQUEST` explains one of them.", style="dim")
    return Group(Text(f"User {user_id}, newest answer first", style="bold"), table, hint)


def version(use: VersionUse) -> RenderableType:
    """Lay out all that a version ever answered."""
    if not use.first or not use.last:
        return Text(f"Version {use.version} never answered anybody.")
    head = (
        f"Version {use.version} gave {use.answers:,} answers to {use.users:,} users, "
        f"from {moment(use.first)} to {moment(use.last)}"
    )
    rungs = Table("rung", "answers", "share", box=SIMPLE)
    for source, answers in sorted(use.by_source.items(), key=lambda item: -item[1]):
        rungs.add_row(source, f"{answers:,}", f"{answers / use.answers:.1%}")
    days = Table(
        "day (UTC)",
        "answers",
        box=SIMPLE,
        title=None if len(use.by_day) <= _DAYS else f"the last {_DAYS} days",
    )
    for day, answers in use.by_day[-_DAYS:]:
        days.add_row(f"{day}", f"{answers:,}")
    return Group(Text(head, style="bold"), rungs, days)


def radius(found: Radius) -> RenderableType:
    """Lay out what rests on a range of offsets."""
    out = " (in quarantine: no training takes it any more)" if found.quarantined else ""
    head = Text(f"{in_words(found.span)}{out}", style="bold")
    named = found.batches if len(found.batches) < _NAMED else (found.batches[0], "…", found.batches[-1])
    batches = Text("\n".join([f"Batches that hold some of it: {len(found.batches):,}", *named]))
    unknown = (Text(f"Not known: {reason}", style="yellow") for reason in found.unknown)
    if not found.versions:
        return Group(head, batches, Text("No version was trained on it."), *unknown)
    table = Table(
        "version", "offsets", "releases", "answers", "users", "first (UTC)", "last (UTC)", box=SIMPLE
    )
    for touched in found.versions:
        table.add_row(
            f"v{touched.version}{', serves' if touched.serves else ''}",
            f"{touched.offsets:,}",
            ", ".join(f"{release.release_id} {release.state}" for release in touched.releases) or "none",
            f"{touched.reach.answers:,}",
            f"{touched.reach.users:,}",
            *(f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (touched.reach.first, touched.reach.last)),
        )
    together = Text(
        f"Together: {found.reach.answers:,} answers to {found.reach.users:,} users{_from_to(found.reach)}."
    )
    return Group(head, batches, table, together, *_way_back(found), *unknown)


def _way_back(found: Radius) -> Iterator[Text]:
    if any(touched.serves for touched in found.versions) and found.clean:
        yield Text(
            f"Version {found.clean} is the newest that does not rest on it: `python -m pipelines rollback "
            f"{found.clean}` puts it back for all viewers."
        )


def _from_to(reach: Reach) -> str:
    return f", from {moment(reach.first)} to {moment(reach.last)}" if reach.first and reach.last else ""


def _section(section: Section) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in section.lines:
        grid.add_row(Text(line.label, style=_STYLES[line.good]), _value(line))
    return Group(Text(f"\n{section.title}", style="bold cyan"), Padding(grid, (0, 0, 0, 2)))


def _value(line: Line) -> RenderableType:
    text = Text(line.text)
    if line.url:
        text.append(f"\n{line.url}", style="dim")
    if not line.items:
        return text
    numbered = [Text(f"{place:2} {item}") for place, item in enumerate(line.items, start=1)]
    return Group(text, Columns(numbered, column_first=True, padding=(0, 3)))


def _wanted(state: ServedAt) -> Iterator[Text]:
    stable, candidate = state.wanted.stable, state.wanted.candidate
    wanted = f"version {stable.version} (release {stable.release_id})" if stable else "nothing yet"
    yield Text(f"By the ledger the stable version was {wanted}.")
    if candidate:
        yield Text(
            f"The candidate was version {candidate.version} (release {candidate.release_id}) "
            f"for {candidate.plan.canary_percent} % of the users."
        )
    else:
        yield Text("There was no candidate.")


def _lost(state: ServedAt) -> Iterator[Text]:
    for lost in state.lost:
        yield Text(
            f"Not counted: {lost.count:,} answers of {lost.replica} from {lost.since:%H:%M:%S} to "
            f"{lost.until:%H:%M:%S}, whose receipts were lost.",
            style="yellow",
        )
