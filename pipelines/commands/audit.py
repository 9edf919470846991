"""What was answered, why, and by whom, on the shell."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipelines.commands.shell import moment_of, print_json, text_of
from pipelines.settings import read

if TYPE_CHECKING:
    from pipelines.audit.books import Books

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def receipt(
    request_id: Annotated[str, typer.Argument(help="X-Request-Id of the answer.", callback=text_of)],
    replay: Annotated[
        bool, typer.Option("--replay", help="Fetch the version, ask it again and compare the lists.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Explain one answer: version, figures, data, code, run, gate and release decision."""
    from pipelines.audit import show
    from pipelines.audit.books import open_books
    from pipelines.audit.explain import explain
    from pipelines.audit.replay import replay as ask_again
    from pipelines.audit.story import tell

    books = open_books(read())
    explanation = explain(books, request_id)
    replayed = ask_again(explanation.receipt, books.registry, books.models_dir) if replay else None
    if as_json:
        print_json(explanation.as_json() | ({"replay": replayed.as_json()} if replayed else {}))
    else:
        Console().print(show.story(tell(explanation, replayed)))


def served(
    at: Annotated[str | None, typer.Option(help="Moment, ISO 8601, as 2026-11-22T03:10; UTC.")] = None,
    user: Annotated[str | None, typer.Option(help="What this user got.", callback=text_of)] = None,
    version: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="All that this version answered.")
    ] = None,
    window_s: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds counted before and after --at.")
    ] = 30.0,
    days: Annotated[float, typer.Option(min=0.01, max=36_500, help="Days that --user looks back.")] = 30.0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most answers that --user lists.")] = 50,
    as_json: _Json = False,
) -> None:
    """Say which versions served whom: at a moment, a user, or by one version."""
    from pipelines.audit.books import open_books

    if [at, user, version].count(None) != 2:
        raise typer.BadParameter("give one of --at, --user and --version")
    moment = moment_of(at) if at is not None else datetime.now(UTC)
    books = open_books(read())
    if at is not None:
        _served_at(books, moment, window_s, as_json=as_json)
    elif user is not None:
        _served_user(books, user, moment - timedelta(days=days), limit, as_json=as_json)
    elif version is not None:
        _served_by(books, version, as_json=as_json)


def archive(
    keep_days: Annotated[
        int | None, typer.Option(min=1, max=3_650, help="Days that stay; default: the setting.")
    ] = None,
) -> None:
    """Move old receipts from the database to Parquet files, one a day; look-ups still find them."""
    from pipelines.audit.upkeep import archive_receipts

    config = read() if keep_days is None else read(receipts_keep_days=keep_days)
    print_json([asdict(archived) for archived in archive_receipts(config)])


def _served_at(books: "Books", at: datetime, window_s: float, *, as_json: bool) -> None:
    from pipelines.audit import show
    from pipelines.audit.served import around, served_at

    since, until = around(at, window_s)
    state = served_at(
        at,
        window_s,
        books.ledger.opened_until(at),
        books.receipts.versions_between(since, until),
        books.receipts.lost_between(since, until),
    )
    if as_json:
        print_json(state.as_json())
    else:
        Console().print(show.served_at(state))


def _served_user(books: "Books", user: str, since: datetime, limit: int, *, as_json: bool) -> None:
    from pipelines.audit import show

    # A replica's clock may be ahead of ours.
    until = datetime.now(UTC) + timedelta(minutes=1)
    found = books.receipts.of_user(user, since=since, until=until, limit=limit)
    if as_json:
        print_json([each.as_json() for each in found])
    else:
        Console().print(show.receipts(user, found))


def _served_by(books: "Books", version: int, *, as_json: bool) -> None:
    from pipelines.audit import show

    use = books.receipts.of_version(version)
    if as_json:
        print_json(asdict(use))
    else:
        Console().print(show.version(use))
