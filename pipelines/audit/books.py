"""What an auditor opens: receipts, tracking table, ledger and registry of this machine."""

import logging
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from pipelines.errors import MarqueeError, SettingsError
from pipelines.model.registry import Registry
from pipelines.records.database import brief, connect
from pipelines.records.lookup import Receipts
from pipelines.records.tables import tracking
from pipelines.release import world
from pipelines.release.ledger import Ledger
from pipelines.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Books:
    """The places that an answer is traced through."""

    receipts: Receipts
    engine: Engine
    ledger: Ledger
    registry: Registry
    models_dir: Path
    """Artifacts that a replay may have to lay out."""
    airflow_url: str
    places: tuple[str, ...]
    """Where receipts are kept, in words, for whom one is not found."""

    def database_trouble(self) -> str:
        """Return why the records database does not answer; empty when it does."""
        try:
            with self.engine.connect() as connection:
                connection.execute(select(tracking.c.version_number).limit(1))
        except SQLAlchemyError as error:
            return brief(error)
        return ""


def open_books(config: Settings) -> Books:
    """Open the books of ``config``; a database that is away leaves the others open."""
    engine = _database(config)
    return Books(
        receipts=Receipts(engine, config.receipts_dir, config.spool_dir),
        engine=engine,
        ledger=Ledger(engine),
        registry=world.registry(config),
        models_dir=config.models_dir,
        airflow_url=config.airflow_url,
        places=(
            f"the records database {engine.url!r}",
            f"the archive {config.receipts_dir}",
            f"the spool {config.spool_dir}",
        ),
    )


def _database(config: Settings) -> Engine:
    """Return the records database with its tables up to date, or as it is when it does not answer."""
    try:
        return world.records(config)
    except SettingsError:
        raise
    except MarqueeError as error:
        log.warning("%s", error)
        return connect(config.records)
