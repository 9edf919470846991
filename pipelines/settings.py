"""All settings, read once from the environment (or ``.env``), checked together, frozen.

Every field is an environment variable with the prefix ``MARQUEE_``: ``max_rmse`` is
``MARQUEE_MAX_RMSE``. ``.env.example`` is generated from this file (``python -m pipelines settings``).
"""

import json
import os
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import SettingsError
from pipelines.fault import Fault

PROJECT_DIR = Path(__file__).resolve().parent.parent

_DOTENV = "MARQUEE_DOTENV"
EXAMPLE_HEAD = """\
# Every setting of Marquee with its default. Written by `make .env.example` (python -m pipelines settings).
# Copy to .env and change what you need; the environment wins over .env.
"""

Port = Annotated[int, Field(ge=1, le=65535)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=1.0, le=100.0)]


class EventSource(StrEnum):
    """Where events are read from."""

    KAFKA = "kafka"
    FILE = "file"


class KafkaClient(StrEnum):
    """What reads the values of events; everything else is asked through kafka-python."""

    PYTHON = "python"
    CONFLUENT = "confluent"


class OnDeadline(StrEnum):
    """What becomes of a candidate that could not be judged in time."""

    ASK = "ask"
    ABORT = "abort"
    PROMOTE = "promote"


class FleetKind(StrEnum):
    """What the replicas are."""

    LOCAL = "local"
    """Programs of the one-machine stack."""
    DOCKER = "docker"
    """Containers of the compose stack."""


class Settings(BaseSettings):
    """What a person may change; the docstring under each field is its line in ``.env.example``."""

    model_config = SettingsConfigDict(
        env_prefix="MARQUEE_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    # --- where things are -------------------------------------------------------------------
    var_dir: Path = Path("var")
    """Folder of all run-time state: batches, models, registry, records, logs; relative to the project."""
    records_url: str = ""
    """SQLAlchemy address of the records database; empty: SQLite in the run-time folder."""

    # --- events -----------------------------------------------------------------------------
    event_source: EventSource = EventSource.KAFKA
    """`kafka`, or `file` to read lines from MARQUEE_EVENT_FILE."""
    event_file: Path | None = None
    """The log that the file source reads, one event per line."""
    kafka_servers: str = ""
    """Bootstrap servers, comma-separated host:port; empty: the Kafka of the one-machine stack."""
    kafka_topic: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,200}$")] = "movielog4"
    """Topic that carries the stream."""
    kafka_partitions: tuple[int, ...] = ()
    """Partitions to read, as a JSON list such as [0,1]; empty: all."""
    kafka_timeout_s: Seconds = 30.0
    """How long a silent broker is waited for before it is called away."""
    kafka_client: KafkaClient = KafkaClient.PYTHON
    """Reads events: `python` (kafka-python), or `confluent` (librdkafka), which is three times as fast."""
    batch_lines: Annotated[int, Field(ge=1_000, le=5_000_000)] = 500_000
    """Most event lines in one batch file; bounds the memory of collect."""
    collect_processes: Annotated[int, Field(ge=1, le=64)] = 2
    """Most processes that collect at a time, each with partitions of its own."""

    # --- model and gate -----------------------------------------------------------------------
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 20
    """Seed of all randomness in training."""
    svd_factors: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Latent factors of the rating predictor (scikit-surprise SVD)."""
    svd_epochs: Annotated[int, Field(ge=1, le=500)] = 20
    """Passes over the ratings when the rating predictor is fitted."""
    holdout_share: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.1
    """Share of the newest ratings that the gate holds out."""
    min_holdout: Annotated[int, Field(ge=1)] = 50
    """Fewest held-out ratings on which the gate dares to judge."""
    max_rmse: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """A model whose hold-out RMSE (rating stars) is not below this is refused."""
    max_rmse_worse: Annotated[float, Field(ge=0.0, le=10.0)] = 0.02
    """How much worse (rating stars) than the serving model on the same hold-out is still accepted."""
    max_ranking_worse: Share = 0.01
    """How far nDCG@10 or recall@20 may lie below popularity's or the serving model's."""
    min_ranked_users: Annotated[int, Field(ge=1)] = 30
    """Fewest users whose lists can be scored on which the gate judges the ranking."""
    trending_half_life_days: Annotated[float, Field(gt=0.0, le=3_650.0)] = 7.0
    """Age at which a rating or viewing counts half for what is popular of late."""

    # --- registry -----------------------------------------------------------------------------
    registry_dir: Path | None = None
    """Git and DVC repository of the versions; empty: `registry` in the run-time folder."""
    registry_git_remote: str = ""
    """Git remote that versions are pushed to; empty: stay local."""
    registry_dvc_remote: str = ""
    """DVC remote (folder or URL) that data and models are pushed to; empty: stay local."""

    # --- release ------------------------------------------------------------------------------
    canary_percent: Annotated[int, Field(ge=1, le=50)] = 20
    """Share of the users, in percent, that a candidate gets."""
    canary_window_s: Annotated[float, Field(ge=10.0, le=7 * 86_400.0)] = 43_200.0
    """How long a candidate is watched."""
    canary_extension_s: Annotated[float, Field(ge=0.0, le=7 * 86_400.0)] = 3_600.0
    """How much longer a candidate without a verdict is held: window and extension end at the deadline."""
    on_deadline: OnDeadline = OnDeadline.ASK
    """What becomes of a candidate without a verdict at the deadline: `ask` a person, `abort` or `promote`."""
    early_promotion: bool = False
    """Promote as soon as the judge would pass the candidate, without waiting for the end of the window."""
    look_every_s: Annotated[float, Field(ge=1.0, le=3_600.0)] = 60.0
    """Pause between two looks at the candidate."""
    max_mean_ms: Annotated[float, Field(gt=0.0, le=60_000.0)] = 500.0
    """Mean response time of good recommendation answers that a candidate must stay below."""
    max_p95_ratio: Ratio = 1.5
    """How many times stable's p95 of the response times the candidate's may be."""
    max_p99_ratio: Ratio = 2.0
    """How many times stable's p99 of the response times the candidate's may be."""
    tail_floor_ms: Annotated[float, Field(ge=0.0, le=60_000.0)] = 100.0
    """A p95 or p99 below this is good enough, whatever stable's is."""
    max_error_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Largest share of failed answers of a candidate, whatever stable's is."""
    max_error_ratio: Ratio = 1.25
    """How many times stable's share of failed answers the candidate's may be."""
    max_short_ratio: Ratio = 1.25
    """How many times stable's share of short lists the candidate's may be."""
    max_below_worse: Share = 0.05
    """How much larger than stable's the share of answers below the personal rung may be."""
    max_mixed_users: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Largest share of the users who meet both the candidate and stable."""
    false_abort: Annotated[float, Field(gt=0.0, le=0.2)] = 0.01
    """Chance of taking a sound candidate away in a whole watch, however often it is looked at."""
    usual_error_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Share of failed answers beside which the next one must be seen."""
    see_error_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """Share of failed answers that a watch must be able to see before it passes a candidate."""
    see_slow_share: Annotated[float, Field(gt=0.01, lt=1.0)] = 0.03
    """Share of answers beyond the limit of the p99 that a watch must be able to see; 0.01 may be there."""
    see_below_more: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Rise of the share of answers below the personal rung that a watch must be able to see."""
    instrument_tolerance: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """How far, as a share, receipts and Prometheus may disagree before neither is believed."""
    guard_s: Annotated[float, Field(ge=0.0, le=7 * 86_400.0)] = 3_600.0
    """How long a promoted version is watched against the figures of the one before; 0: not at all."""
    preflight_requests: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """How many of the latest real requests a candidate answers before any viewer meets it."""
    max_preflight_errors: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Largest share of these that may fail."""
    max_preflight_p99_ms: Annotated[float, Field(gt=0.0, le=60_000.0)] = 100.0
    """Largest p99 of the response times to these."""
    min_preflight_overlap: Share = 0.1
    """Smallest mean share of movies that these lists and the stable version's have in common."""
    prometheus_url: str = ""
    """Address of Prometheus; empty: the local one."""
    ready_timeout_s: Seconds = 60.0
    """How long a replica may take to become ready."""
    drill_s: Annotated[float, Field(ge=5.0, le=86_400.0)] = 600.0
    """How long a fire drill lets the watch look for each fault before it counts as missed."""

    looks_keep_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    """Days after a release's end for which all its looks keep their figures; then the first and last do."""

    # --- receipts -----------------------------------------------------------------------------
    receipts_keep_days: Annotated[int, Field(ge=1, le=3_650)] = 30
    """Days that receipts stay in the database; older ones move to Parquet files, one a day."""
    recents_days: Annotated[float, Field(gt=0.0, le=365.0)] = 7.0
    """Days for which it is known to the replicas what a user has watched since the training."""

    # --- alerts -------------------------------------------------------------------------------
    slack_webhook_url: SecretStr = SecretStr("")
    """Slack incoming-webhook URL; empty: no Slack."""
    smtp_host: str = ""
    """Mail server; empty: no e-mail."""
    smtp_port: Port = 587
    """Port of the mail server."""
    smtp_user: str = ""
    """Login at the mail server; empty: none."""
    smtp_password: SecretStr = SecretStr("")
    """Password at the mail server."""
    smtp_tls: bool = True
    """Use STARTTLS; switch off only for a catcher on this machine."""
    mail_from: str = "marquee@localhost"
    """Sender of e-mail alerts."""
    mail_to: str = "ml-oncall@localhost"
    """Receivers of e-mail alerts, comma-separated."""

    # --- schedule -----------------------------------------------------------------------------
    retrain_every_days: Annotated[int, Field(ge=0, le=365)] = 2
    """Days between two scheduled trainings; 0: only by hand."""
    retrain_at_once: bool = True
    """Train for the first time as soon as the DAG is switched on, not at the next turn at 03:00 UTC."""

    # --- serving and the one-machine stack ----------------------------------------------------
    bind: str = "127.0.0.1"
    """Address that NGINX and the Airflow UI listen on in the one-machine stack."""
    nginx_port: Port = 8082
    """NGINX: the address viewers ask."""
    max_requests_per_s: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    """Requests a second from one address, as of a load balancer, beyond which NGINX says 429; 0: no limit."""
    stable_1_port: Port = 8091
    """First stable replica."""
    stable_2_port: Port = 8092
    """Second stable replica."""
    canary_port: Port = 8093
    """Canary replica."""
    shadow_port: Port = 8095
    """Replica that preflights and fire drills try: no viewer is ever answered by it."""
    replica_workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Gunicorn workers of each replica."""
    canary_fault: Fault = Fault.NONE
    """What is wrong with the canary, on purpose; the demo's slow scenario says `slow`."""
    receipts_port: Port = 8094
    """Receipts of single answers as a page and as JSON; on this machine only."""
    airflow_port: Port = 8080
    """Airflow UI and API."""
    prometheus_port: Port = 9090
    """Prometheus of the one-machine stack."""
    kafka_port: Port = 9092
    """Kafka of the one-machine stack."""
    kafka_controller_port: Port = 9093
    """Its controller."""
    smtp_catcher_port: Port = 8025
    """Local mail catcher of the demo."""
    slack_catcher_port: Port = 8026
    """Local Slack catcher of the demo."""

    catcher_bind: str = "127.0.0.1"
    """Address that the catchers listen on."""

    # --- containers: set by docker-compose.yaml -----------------------------------------------
    fleet: FleetKind = FleetKind.LOCAL
    """Replicas are programs of this machine (`local`) or containers (`docker`)."""
    docker_host: str = "tcp://gate:2375"
    """Docker, or the gate before it, for what deploys containers."""
    compose_project: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "marquee"
    """Compose project whose containers are deployed."""
    serving_repository: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,127}$")] = "marquee-serving"
    """Repository of the serving images, one tag `vN` per version."""
    train_image: str = ""
    """Image that trains in a container of its own; empty: a training runs in the process of its task."""
    train_memory_mb: Annotated[int, Field(ge=256)] = 4_096
    """Most memory (MiB) of the container that trains."""
    train_cpus: Annotated[float, Field(gt=0.0, le=1_024.0)] = 2.0
    """Most processors of the container that trains."""
    nginx_dir: Path | None = None
    """Folder of NGINX's configuration; empty: `nginx` in the run-time folder."""
    nginx_status_at: str = ""
    """host:port where each NGINX says which split it follows, comma-separated; one-machine stack: empty."""
    recommend_at: str = ""
    """Address viewers ask, without the user id, as the audience sees it; empty: NGINX of this machine."""
    airflow_at: str = ""
    """Address of the Airflow UI in alerts and links; empty: that of the one-machine stack."""

    @field_validator("var_dir", "registry_dir", "event_file", "nginx_dir")
    @classmethod
    def _from_project(cls, value: Path | None) -> Path | None:
        return value and PROJECT_DIR / value

    @model_validator(mode="after")
    def _can_be_seen(self) -> Self:
        """Refuse a plan that could never pass a candidate: what must be seen lies within what is allowed."""
        allowed_errors = self.max_error_ratio * self.usual_error_share
        if self.see_error_share <= allowed_errors:
            raise ValueError(
                f"MARQUEE_SEE_ERROR_SHARE={self.see_error_share:g} must be above "
                f"MARQUEE_MAX_ERROR_RATIO x MARQUEE_USUAL_ERROR_SHARE = {allowed_errors:g}, "
                "which is allowed and so never seen"
            )
        if self.see_below_more <= self.max_below_worse:
            raise ValueError(
                f"MARQUEE_SEE_BELOW_MORE={self.see_below_more:g} must be above "
                f"MARQUEE_MAX_BELOW_WORSE={self.max_below_worse:g}, which is allowed and so never seen"
            )
        return self

    @property
    def records(self) -> str:
        """SQLAlchemy URL of the records database."""
        return self.records_url or f"sqlite:///{self.var_dir / 'records.db'}"

    @property
    def registry(self) -> Path:
        """Folder of the registry repository."""
        return self.registry_dir or self.var_dir / "registry"

    @property
    def kafka(self) -> str:
        """Bootstrap servers."""
        return self.kafka_servers or f"127.0.0.1:{self.kafka_port}"

    @property
    def batches_dir(self) -> Path:
        """Folder of the collected batches."""
        return self.var_dir / "batches"

    @property
    def models_dir(self) -> Path:
        """Folder of the artifacts that replicas may serve, one sub-folder ``vN`` per version."""
        return self.var_dir / "models"

    @property
    def receipts_dir(self) -> Path:
        """Folder of the receipts that have left the database, one Parquet file a day."""
        return self.var_dir / "receipts"

    @property
    def recents_dir(self) -> Path:
        """Folder of what each user has watched since the training."""
        return self.var_dir / "recents"

    @property
    def spool_dir(self) -> Path:
        """Folder that replicas append receipts to."""
        return self.var_dir / "spool"

    @property
    def shadow_spool_dir(self) -> Path:
        """Folder of the shadow's receipts: no viewer got these answers, so the recorder never sees them."""
        return self.var_dir / "shadow" / "spool"

    @property
    def prometheus(self) -> str:
        """Address of Prometheus."""
        return self.prometheus_url or f"http://127.0.0.1:{self.prometheus_port}"

    @property
    def airflow_url(self) -> str:
        """Address of Airflow's UI and API, without a slash at its end."""
        if self.airflow_at:
            return self.airflow_at.rstrip("/")
        host = "127.0.0.1" if self.bind in {"0.0.0.0", "::"} else self.bind
        return f"http://{host}:{self.airflow_port}"

    @property
    def recommend_url(self) -> str:
        """Address viewers ask, without the user id."""
        if self.recommend_at:
            return self.recommend_at.rstrip("/")
        return f"http://{self.bind}:{self.nginx_port}/recommend"


def environment(config: Settings) -> dict[str, str]:
    """Return ``config`` as environment variables, secrets in clear: for child processes, never for a file.

    A child reads exactly this: what is empty here is not filled in from ``.env``.
    """
    values = {name: _as_text(getattr(config, name)) for name in Settings.model_fields}
    return {_DOTENV: "off"} | {f"MARQUEE_{name.upper()}": value for name, value in values.items()}


def read(**overrides: Any) -> Settings:
    """Read the settings afresh; ``overrides`` win over the environment.

    Raises:
        SettingsError: naming every setting that is wrong, its value and what is allowed.
    """
    if os.environ.get(_DOTENV) == "off":
        overrides = {"_env_file": None, **overrides}
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
        raise SettingsError("\n".join(["settings are wrong:", *lines])) from None


@cache
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return read()


def allowed(name: str) -> str:
    """Say in words which values the setting ``name`` takes, for example ``from 1 to 50``."""
    field = Settings.model_fields[name]
    limits = {key: value for item in field.metadata for key, value in _limits(item)}
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "pattern": "matching"}
    return ", ".join(f"{words[key]} {value}" for key, value in limits.items())


def example() -> str:
    """Return the text of ``.env.example``: each setting with its meaning, allowed values and default.

    At its end stand the secrets of the containers, which are no settings of ours: ``docker/env.example``.
    """
    secrets = (PROJECT_DIR / "docker" / "env.example").read_text()
    return "\n".join([EXAMPLE_HEAD, *(_example_of(name) for name in Settings.model_fields), secrets])


def _example_of(name: str) -> str:
    field = Settings.model_fields[name]
    limits = f" ({allowed(name)})" if allowed(name) else ""
    return f"# {field.description}{limits}\nMARQUEE_{name.upper()}={_as_text(field.default)}\n"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def _limits(item: Any) -> list[tuple[str, Any]]:
    return [
        (key, getattr(item, key))
        for key in ("ge", "gt", "le", "lt", "pattern")
        if getattr(item, key, None) is not None
    ]


def _explain(detail: Any) -> str:
    if not detail["loc"]:
        return f"  {detail['msg'].removeprefix('Value error, ')}"
    name = str(detail["loc"][0])
    hint = allowed(name) if name in Settings.model_fields else ""
    secret = name in Settings.model_fields and Settings.model_fields[name].annotation is SecretStr
    value = "(hidden)" if secret else repr(detail["input"])
    return f"  MARQUEE_{name.upper()}={value}: {detail['msg']}" + (f" (allowed: {hint})" if hint else "")
