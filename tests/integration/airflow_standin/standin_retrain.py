"""Stands in for ``pipelines.retrain``."""

from script import play


def collect(config, *, announce):
    return play("collect")


def validate(config, *, run_id, announce):
    return play("validate", run_id=run_id)


def train(config, *, run_id):
    return play("train", run_id=run_id)


def gate(config, *, run_id, announce):
    return play("gate", run_id=run_id)


def version(config, *, run_id, announce):
    return play("version", run_id=run_id)
