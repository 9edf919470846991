"""The one-machine stack and its parts, on the shell."""

from typing import Annotated

import typer
from rich.console import Console

from pipelines.commands.shell import Exit, Heartbeat, beating
from pipelines.settings import EventSource, read


def recorder(heartbeat: Heartbeat = None) -> None:
    """Ship receipts from the spool to the records database until stopped."""
    from pipelines.local.signals import stop_event
    from pipelines.records import recorder as shipping

    config = read()
    shipping.run(config.records, config.spool_dir, every_s=1.0, stop=stop_event(), beat=beating(heartbeat))


def follow(heartbeat: Heartbeat = None) -> None:
    """Keep what each user has watched since the training, for the replicas, until stopped."""
    from pipelines import retrain
    from pipelines.data.follow import run
    from pipelines.local.signals import stop_event

    config = read()
    run(
        lambda: retrain.source_of(config),
        config.recents_dir,
        start=retrain.trained_up_to(config),
        keep_days=config.recents_days,
        stop=stop_event(),
        beat=beating(heartbeat),
    )


def demo(
    scenario: Annotated[str, typer.Option(help="good, slow or bad-rmse.")] = "good",
    once: Annotated[bool, typer.Option("--once", help="Stop everything after the verdict.")] = False,
) -> None:
    """Play the whole loop on this machine, live, with Airflow, Kafka, NGINX and Prometheus."""
    from pipelines.local.demo import SCENARIOS, run

    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"{scenario!r} is no scenario; there are {', '.join(SCENARIOS)}")
    if not run(SCENARIOS[scenario], once=once, console=Console(soft_wrap=True)):
        raise typer.Exit(Exit.FAILED)


def up() -> None:
    """Start the one-machine stack in the background, with whatever served before."""
    from pipelines.local import airflow
    from pipelines.local.stack import bring_up

    config = read()
    bring_up(config)
    password = airflow.admin_password(config.var_dir / "airflow")
    print(f"Airflow UI  {config.airflow_url}  login: {airflow.USER}  password: {password}")
    print(f"recommend   {config.recommend_url}/<user>")
    print(f"receipts    http://127.0.0.1:{config.receipts_port}/receipt/<request id>")
    print(f"Prometheus  {config.prometheus}")


def down() -> None:
    """Stop the one-machine stack and a demo that was left behind."""
    from pipelines.local.stack import Stack

    config = read()
    for folder in (config.var_dir, config.var_dir / "demo"):
        Stack(read(var_dir=folder), kafka_home=None).stop()


def audience(
    taste: Annotated[str, typer.Option(help="How viewers rate: movielens, or random.")] = "movielens",
    seed: Annotated[int, typer.Option(help="Of all that viewers do.")] = 1,
    requests_per_s: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Recommendation requests a second.")
    ] = 10.0,
    archive: Annotated[
        bool, typer.Option("--archive", help="Begin an empty stream with two days of archived events.")
    ] = False,
    heartbeat: Heartbeat = None,
) -> None:
    """Play the viewers: ask for recommendations and write the event stream, until stopped."""
    from pipelines.local.audience.history import play_history
    from pipelines.local.audience.loop import run
    from pipelines.local.audience.sinks import FileSink, KafkaSink
    from pipelines.local.audience.viewers import Taste
    from pipelines.local.signals import stop_event

    config = read()
    to_file = config.event_source is EventSource.FILE and config.event_file
    sink = FileSink(to_file) if to_file else KafkaSink(config.kafka, config.kafka_topic)
    stop = stop_event()
    beat = beating(heartbeat)
    if archive:
        play_history(sink, seed, stop, beat=beat)
    run(
        config.recommend_url,
        sink,
        stop,
        seed=seed,
        requests_per_s=requests_per_s,
        taste=Taste(taste),
        beat=beat,
    )


def catch(what: Annotated[str, typer.Argument(help="smtp or slack.")]) -> None:
    """Catch alerts instead of sending them, until stopped."""
    from pipelines.local import catchers

    config = read()
    if what == "smtp":
        catchers.run_smtp(config.smtp_catcher_port, config.var_dir / "mails", host=config.catcher_bind)
    elif what == "slack":
        catchers.run_slack(config.slack_catcher_port, config.var_dir / "slack", host=config.catcher_bind)
    else:
        raise typer.BadParameter(f"{what!r} cannot be caught; there are smtp and slack")


def settings() -> None:
    """Print .env.example: every setting with its default and meaning."""
    from pipelines.settings import example

    print(example(), end="")
