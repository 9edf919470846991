"""The records database, on the shell."""

from pipelines.settings import read


def migrate() -> None:
    """Bring the tables of the records up to date: a user is needed who may change them."""
    from pipelines.records import database

    url = read().records
    before = database.revision(url)
    database.migrate(url)
    after = database.revision(url)
    if before == after:
        print(f"the records are at {after}, which is up to date")
    else:
        print(f"the records are brought from {before or 'nothing'} to {after}")
