"""The trainer's commands from data to a version in production, and what they say when a person errs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from detector import ModelDirectory, StreamDefinition
from tests.trainer import histories
from tests.trainer.conftest import payments
from tests.trainer.payments import write_jsonl
from trainer.commands import mount
from trainer.errors import DataFileError


def offbeat(*arguments: object) -> Result:
    app = typer.Typer()
    mount(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"OFFBEAT_MODELS": None})


def train(data: Path, stream: Path, models: Path, *more: object) -> Result:
    return offbeat("train", data, "--stream", stream, "--models", models, "--steps", 100, *more)


@dataclass(frozen=True)
class Trained:
    """One trained detector, to read from."""

    data: Path
    models: Path
    said: Result

    @property
    def version(self) -> str:
        (version,) = ModelDirectory(self.models / "payments").versions()
        return version


@pytest.fixture(scope="module")
def trained(payments_dir: Path) -> Trained:
    data, models = payments_dir / "payments.jsonl", payments_dir / "models"
    shutil.rmtree(models, ignore_errors=True)
    return Trained(data, models, train(data, payments_dir / "stream.toml", models))


@pytest.fixture
def models(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the models, to change."""
    return Path(shutil.copytree(trained.models, tmp_path / "models"))


def test_what_init_proposes_trains_and_scores_unchanged(payments_dir: Path, tmp_path: Path) -> None:
    data = payments_dir / "payments.jsonl"
    proposed = offbeat("init", data, "--name", "shop")
    (tmp_path / "stream.toml").write_text(proposed.stdout)

    fitted = train(data, tmp_path / "stream.toml", tmp_path / "models", "--network", "pca")
    scored = offbeat("score", "--models", tmp_path / "models", "--input", data, "--output", tmp_path / "out.parquet")

    assert [result.exit_code for result in (proposed, fitted, scored)] == [0, 0, 0], fitted.stderr + scored.stderr
    assert StreamDefinition.from_toml(proposed.stdout).label is not None
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 600


def test_training_ends_with_records_losses_threshold_and_quality_beside_pca(trained: Trained) -> None:
    said = trained.said.stdout

    assert trained.said.exit_code == 0, trained.said.stderr
    for part in ("rows read", "600", "held-out loss", "threshold", "AUROC", "average precision", "autoencoder", "PCA"):
        assert part in said, part
    assert "card precision@100 a day" in said
    assert f"published payments {trained.version}" in said


def test_training_shows_its_losses_as_it_goes(trained: Trained) -> None:
    assert re.search(r"step \d+ of at most 100: loss [\d.]+, held out [\d.]+", trained.said.stderr)


def test_the_artifact_holds_the_report(trained: Trained) -> None:
    report = trained.models / "payments" / trained.version / "report.html"

    assert report.read_bytes().startswith(b"<!doctype html>")


def test_a_first_version_is_promoted_and_a_second_only_on_demand(
    trained: Trained, models: Path, payments_dir: Path
) -> None:
    stream = payments_dir / "stream.toml"
    second = train(trained.data, stream, models, "--network", "pca")
    directory = ModelDirectory(models / "payments")

    assert second.exit_code == 0
    assert directory.current() == trained.version
    assert f"production is still {trained.version}" in second.stdout

    third = train(trained.data, stream, models, "--network", "pca", "--seed", 1, "--promote")

    assert "it is in production" in third.stdout
    assert directory.current() != trained.version


def test_promote_and_rollback_move_production_there_and_back(
    trained: Trained, models: Path, payments_dir: Path
) -> None:
    train(trained.data, payments_dir / "stream.toml", models, "--network", "pca")
    directory = ModelDirectory(models / "payments")
    (other,) = set(directory.versions()) - {trained.version}

    promoted = offbeat("models", "promote", other, "--models", models)
    after_promotion = directory.current()
    rolled_back = offbeat("models", "rollback", "--models", models)

    assert (promoted.exit_code, rolled_back.exit_code) == (0, 0)
    assert after_promotion == other
    assert directory.current() == trained.version
    assert trained.version in rolled_back.stdout


def test_models_are_listed_and_shown_for_people_and_machines(trained: Trained) -> None:
    where = ("--models", trained.models)
    table, shown = offbeat("models", "list", *where), offbeat("models", "show", *where)
    listed = json.loads(offbeat("models", "list", *where, "--json").stdout)
    described = json.loads(offbeat("models", "show", *where, "--json").stdout)

    assert trained.version in table.stdout
    assert "production" in table.stdout
    assert trained.version in shown.stdout
    assert [(one["version"], one["aliases"]) for one in listed] == [(trained.version, ["production"])]
    assert 0 <= listed[0]["quality"]["auroc"] <= 1
    assert described["stream"]["name"] == "payments"
    assert described["threshold"]["rate"] > 0


def test_verify_accepts_what_was_published_and_refuses_what_was_touched(trained: Trained, models: Path) -> None:
    sound = offbeat("models", "verify", "--models", models)
    report = models / "payments" / trained.version / "report.html"
    report.write_bytes(report.read_bytes() + b" ")
    touched = offbeat("models", "verify", "--models", models)

    assert sound.exit_code == 0
    assert touched.exit_code == 1
    assert "report.html" in touched.stderr


def test_a_damaged_version_is_listed_as_such(trained: Trained, models: Path) -> None:
    (models / "payments" / trained.version / "manifest.json").write_text("{")

    listed = offbeat("models", "list", "--models", models)

    assert listed.exit_code == 0
    assert "unreadable" in listed.stdout


def test_scoring_says_what_became_of_the_rows(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(payments(1)[0]) + "\nnot json\n")

    result = offbeat(
        "score", "--models", trained.models, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "o.csv"
    )

    assert result.exit_code == 0
    assert re.search(r"reject\s+1\b", result.stdout)
    assert re.search(r"not_json\s+1\b", result.stdout)
    assert "in.jsonl:2: rejected: the value is not JSON" in result.stderr


def test_rejected_rows_and_the_first_of_them_are_in_the_table(payments_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "in.jsonl"
    data.write_text("oops\n" + (payments_dir / "payments.jsonl").read_text() + '{"id": "x"}\n')

    result = train(data, payments_dir / "stream.toml", tmp_path / "models", "--network", "pca")

    assert re.search(r"rejected: not_json\s+1\s+first at in\.jsonl:1", result.stdout)
    assert re.search(r"rejected: missing_field\s+1\s+first at in\.jsonl:602", result.stdout)


def test_a_sample_is_announced(payments_dir: Path, tmp_path: Path) -> None:
    data, stream = payments_dir / "payments.jsonl", payments_dir / "stream.toml"
    result = train(data, stream, tmp_path / "models", "--network", "pca", "--max-rows", 400)

    assert "training on a uniform sample of 400" in result.stderr
    assert re.search(r"left out by sampling\s+200", result.stdout)


def test_the_command_line_overrides_the_threshold_of_the_definition(payments_dir: Path, tmp_path: Path) -> None:
    data, stream = payments_dir / "payments.jsonl", payments_dir / "stream.toml"
    result = train(data, stream, tmp_path / "models", "--network", "pca", "--alert-budget", "20/day")
    (version,) = ModelDirectory(tmp_path / "models" / "payments").versions()

    assert result.exit_code == 0, result.stderr
    threshold = ModelDirectory(tmp_path / "models" / "payments").load(version).stream.threshold
    assert (threshold.alert_budget, threshold.false_alarm_rate) == ("20/day", None)


def test_every_mistake_of_a_person_is_one_clear_message_and_no_traceback(
    trained: Trained, payments_dir: Path, tmp_path: Path
) -> None:
    stream = payments_dir / "stream.toml"
    (tmp_path / "bad.toml").write_text('name = "x"\nspeed = 3\n')
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps(row) for row in payments(5)))
    (tmp_path / "empty.csv").touch()
    out = tmp_path / "out.csv"
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("init", tmp_path / "gone.csv"), 2, "no such file"),
        (("init", tmp_path / "empty.csv"), 2, "no header line"),
        (("train", trained.data, "--stream", tmp_path / "gone.toml"), 2, "cannot be read"),
        (("train", trained.data, "--stream", tmp_path / "bad.toml"), 2, "speed"),
        (("train", tmp_path / "few.jsonl", "--stream", stream), 2, "normal records"),
        (("train", trained.data, "--stream", stream, "--alert-budget", "lots"), 2, "lots"),
        (
            ("train", trained.data, "--stream", stream, "--alert-budget", "5/day", "--false-alarm-rate", 0.1),
            2,
            "same thing twice",
        ),
        (("train", trained.data, "--stream", stream, "--resume"), 2, "add --checkpoint DIRECTORY"),
        (("score", "--models", tmp_path / "none", "--input", trained.data, "--output", out), 2, "no such directory"),
        (("score", "--models", trained.models, "--input", tmp_path / "gone.csv", "--output", out), 2, "no such file"),
        (
            ("score", "--models", trained.models, "--input", trained.data, "--output", tmp_path / "out.xls"),
            1,
            "use one of",
        ),
        (("models", "show", "--models", trained.models, "--detector", "other"), 2, "holds no detector 'other'"),
        (("models", "show", "20200101T000000Z-00000000", "--models", trained.models), 1, "has no version"),
        (("models", "rollback", "--models", trained.models), 1, "nothing to go back to"),
        (("models", "list", "--models", trained.models / "payments"), 2, f"did you mean --models {trained.models}"),
    ]

    for arguments, code, complaint in cases:
        result = offbeat(*arguments)

        assert (result.exit_code, isinstance(result.exception, (SystemExit, type(None)))) == (code, True), arguments
        assert complaint in re.sub(r"[│\s]+", " ", result.stderr), (arguments, result.stderr)
        assert "Traceback" not in result.output
    assert not out.exists()


def test_one_of_several_detectors_must_be_named(trained: Trained, models: Path) -> None:
    shutil.copytree(models / "payments", models / "second")

    unnamed = offbeat("models", "show", "--models", models)

    assert unnamed.exit_code == 2
    assert "choose with --detector from payments, second" in unnamed.stderr


REAL = Path(__file__).parents[3] / "shared" / "data" / "transactions" / "2018-04.parquet"


@pytest.mark.skipif(not REAL.is_file(), reason=f"the handbook's transactions are not at {REAL}")
def test_a_month_of_real_transactions_goes_from_init_to_scores(tmp_path: Path) -> None:
    stream, models = tmp_path / "stream.toml", tmp_path / "models"
    stream.write_text(offbeat("init", REAL, "--name", "transactions").stdout)

    fitted = offbeat("train", REAL, "--stream", stream, "--models", models, "--network", "pca", "--max-rows", 50_000)
    scored = offbeat("score", "--models", models, "--input", REAL, "--output", tmp_path / "out.parquet")

    assert (fitted.exit_code, scored.exit_code) == (0, 0), fitted.stderr + scored.stderr
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["TRANSACTION_ID"].to_pylist() == pq.read_table(REAL, columns=["TRANSACTION_ID"])[0].to_pylist()
    assert written["score"].null_count == 0


def test_a_label_that_marks_nothing_is_told_before_frauds_are_learned_as_normal(
    payments_dir: Path, tmp_path: Path
) -> None:
    stream = tmp_path / "stream.toml"
    plain = (payments_dir / "stream.toml").read_text()
    stream.write_text(plain.replace('field = "is_fraud"', 'field = "is_fraud"\nanomalous = ["yes", true]'))

    data = payments_dir / "payments.jsonl"
    said = [train(data, each, tmp_path / "models").stderr for each in (stream, payments_dir / "stream.toml")]

    assert 'is_fraud is never "yes" or true' in said[0]
    assert "labelled" not in said[1]


def test_rows_that_are_no_records_are_told_before_the_fit_fails_of_them(payments_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [row | {"amount": str(row["amount"]) if number >= 5 else None} for number, row in enumerate(payments(600))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    result = train(data, payments_dir / "stream.toml", tmp_path / "models")

    assert result.exit_code == 2
    assert "595 of 600 rows are no records; the first: data.jsonl:6: amount" in result.stderr


def test_data_without_rows_or_without_normal_ones_says_so(payments_dir: Path, tmp_path: Path) -> None:
    empty, frauds = tmp_path / "empty.jsonl", tmp_path / "frauds.jsonl"
    empty.touch()
    frauds.write_text("".join(json.dumps(row | {"is_fraud": 1}) + "\n" for row in payments(50)))

    said = [train(data, payments_dir / "stream.toml", tmp_path / "models").stderr for data in (empty, frauds)]

    assert "no row is in it" in said[0]
    assert "0 normal records of 50 are left to fit on (50 are labelled anomalous)" in said[1]


def test_codes_are_written_by_the_model_of_a_version_of_a_detector_or_of_the_only_one(
    trained: Trained, tmp_path: Path
) -> None:
    places = (trained.models, trained.models / "payments", trained.models / "payments" / trained.version)

    results = [
        offbeat("embed", place, trained.data, "--output", tmp_path / f"{n}.npz") for n, place in enumerate(places)
    ]

    assert [result.exit_code for result in results] == [0, 0, 0], results[0].stderr
    assert "600 rows, 0 of them no records: codes of" in results[0].stdout
    assert len({(tmp_path / f"{n}.npz").stat().st_size for n in range(3)}) == 1
    assert offbeat("embed", tmp_path, trained.data, "--output", tmp_path / "x.npz").exit_code == 2


def test_a_training_that_the_clock_ended_says_that_it_cannot_be_repeated(payments_dir: Path, tmp_path: Path) -> None:
    data, stream = payments_dir / "payments.jsonl", payments_dir / "stream.toml"

    result = train(data, stream, tmp_path / "models", "--most-seconds", 0.001)

    said = re.sub(r"\s+", " ", result.stdout)
    assert result.exit_code == 0, result.stderr
    assert "time was up;" in said
    assert "not reproducible, the same data and seed give another detector" in said
    (version,) = ModelDirectory(tmp_path / "models" / "payments").versions()
    facts = ModelDirectory(tmp_path / "models" / "payments").load(version).facts
    assert (facts["training"]["stopped"], facts["training"]["reproducible"]) == ("time", False)


def test_records_beyond_the_most_to_fit_on_are_counted(payments_dir: Path, tmp_path: Path) -> None:
    data, stream = payments_dir / "payments.jsonl", payments_dir / "stream.toml"

    result = train(data, stream, tmp_path / "models", "--network", "pca", "--most-records", 100)

    assert result.exit_code == 0, result.stderr
    assert re.search(r"fitted\s+100\b", result.stdout)
    assert re.search(r"not fitted\s+237\b", result.stdout)  # .65 of 519 normal ones before the test span, less 100


def test_a_checkpoint_is_resumed_and_gone_when_the_version_is_published(payments_dir: Path, tmp_path: Path) -> None:
    data, stream = payments_dir / "payments.jsonl", payments_dir / "stream.toml"
    more = ("--checkpoint", tmp_path / "checkpoint", "--resume")
    (tmp_path / "blocked").touch()

    first = train(data, stream, tmp_path / "blocked", *more)  # trained, and then not published
    left = (tmp_path / "checkpoint").exists()
    other = train(data, stream, tmp_path / "models", *more, "--seed", 1)
    unasked = train(data, stream, tmp_path / "models", "--checkpoint", tmp_path / "checkpoint")
    second = train(data, stream, tmp_path / "models", *more)

    assert (first.exit_code, left) == (1, True)
    assert "training from the beginning" in first.stderr
    assert (other.exit_code, unasked.exit_code) == (2, 2)
    assert "setting seed was 0 and is 1 now" in other.stderr
    assert "add --resume to go on from it" in unasked.stderr
    assert second.exit_code == 0, second.stderr
    assert "resumed at step 100" in second.stdout
    assert not (tmp_path / "checkpoint").exists()


def test_a_feature_that_gives_the_label_away_stops_training_unless_it_is_allowed(
    payments_dir: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [row | {"blocked": row["is_fraud"]} for row in payments(600)])
    stream = tmp_path / "stream.toml"
    plain = (payments_dir / "stream.toml").read_text()
    stream.write_text(plain + '[[feature]]\nkind = "category"\nfield = "blocked"\n')

    refused = train(data, stream, tmp_path / "models", "--network", "pca")
    allowed = train(data, stream, tmp_path / "models", "--network", "pca", "--allow-leakage")

    assert refused.exit_code == 2
    assert "feature 'blocked' (AUROC 1.0000) by itself tells the labelled anomalies" in refused.stderr
    assert allowed.exit_code == 0
    assert "the quality that is measured may be its own" in allowed.stderr
    assert "feature 'blocked' has one value in all normal records" in allowed.stderr


@dataclass(frozen=True)
class Remembering:
    """A detector with history features, and the files that it came from."""

    folder: Path
    said: Result

    @property
    def models(self) -> Path:
        return self.folder / "models"


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Remembering:
    folder, content = tmp_path_factory.mktemp("cards"), histories.rows(800)
    (folder / "earlier").mkdir()
    write_jsonl(folder / "earlier" / "1.jsonl", content[:100])
    write_jsonl(folder / "earlier" / "2.jsonl", content[100:200])
    write_jsonl(folder / "data.jsonl", content[200:])
    (folder / "stream.toml").write_text(histories.STREAM.to_toml())
    said = train(
        folder / "data.jsonl", folder / "stream.toml", folder / "models", "--network", "pca",
        "--history", folder / "earlier" / "1.jsonl", "--history", folder / "earlier" / "2.jsonl",
    )  # fmt: skip
    return Remembering(folder, said)


def test_training_tells_which_records_were_history_alone_and_what_history_takes(remembering: Remembering) -> None:
    said = remembering.said.stdout

    assert remembering.said.exit_code == 0, remembering.said.stderr
    assert re.search(r"replayed only\s+200\b", said)
    assert re.search(r"longest window\s+2d\b", said)
    assert re.search(r"rows read\s+800\s+from 3 file", said)


def test_models_show_what_history_takes(remembering: Remembering) -> None:
    table = offbeat("models", "show", "--models", remembering.models).stdout
    content = json.loads(offbeat("models", "show", "--models", remembering.models, "--json").stdout)

    assert re.search(r"history: longest window\s+2d\b", table)
    assert re.search(r"records: replayed\s+200\b", table)
    assert content["history"]["mode"] == "buckets"
    assert content["history"]["bytes_per_entity"] > 0


def test_scoring_and_features_take_earlier_files(remembering: Remembering, tmp_path: Path) -> None:
    where = ("--models", remembering.models, "--input", remembering.folder / "data.jsonl")
    earlier = ("--history", remembering.folder / "earlier")

    scored = offbeat("score", *where, *earlier, "--output", tmp_path / "scores.parquet")
    made = offbeat("features", *where, *earlier, "--output", tmp_path / "features.parquet")
    bare = offbeat("features", *where, "--output", tmp_path / "bare.parquet")

    assert [result.exit_code for result in (scored, made, bare)] == [0, 0, 0], scored.stderr + made.stderr
    assert pq.read_metadata(tmp_path / "scores.parquet").num_rows == 600
    tables = [pq.read_table(tmp_path / name) for name in ("features.parquet", "bare.parquet")]
    assert [table["since_last"].null_count for table in tables] == [0, 7]  # seven cards
    assert "600 rows, 0 of them no records" in made.stdout


def test_features_and_codes_say_how_many_rows_are_no_records_and_why(remembering: Remembering, tmp_path: Path) -> None:
    data, output = tmp_path / "data.jsonl", tmp_path / "out.parquet"
    data.write_text("oops\n" + (remembering.folder / "data.jsonl").read_text() + '{"id": "x"}\n')

    made = offbeat("features", data, "--models", remembering.models, "--output", output)
    embedded = offbeat("embed", remembering.models, data, "--output", output)

    for result in (made, embedded):
        assert result.exit_code == 0, result.stderr
        assert "602 rows, 2 of them no records (not_json 1, missing_field 1): " in result.stdout


def test_features_need_no_model_where_a_definition_is_given(remembering: Remembering, tmp_path: Path) -> None:
    stream = remembering.folder / "stream.toml"
    data = remembering.folder / "data.jsonl"

    result = offbeat("features", "--stream", stream, "--input", data, "--output", tmp_path / "out.csv")

    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out.csv").read_text().count("\n") == 601


def test_data_too_short_for_their_windows_are_used_with_a_note(remembering: Remembering, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "short.jsonl", histories.rows(140))

    result = train(data, remembering.folder / "stream.toml", tmp_path / "models", "--network", "pca",
                   "--false-alarm-rate", 0.1)  # fmt: skip

    assert result.exit_code == 0, result.stderr
    assert "less than the longest window of history (2 days)" in result.stderr
    assert "replayed only" not in result.stdout


def test_earlier_files_are_refused_where_no_history_is_kept(trained: Trained, tmp_path: Path) -> None:
    result = offbeat(
        "score", "--models", trained.models, "--input", trained.data, "--output", tmp_path / "o.csv", "--history",
        trained.data,
    )  # fmt: skip

    assert result.exit_code == 2
    assert "has no features from history" in result.stderr


def test_a_head_is_taught_compared_and_published_only_where_it_is_asked_for(trained: Trained, tmp_path: Path) -> None:
    stream = trained.models.parent / "stream.toml"

    said = train(trained.data, stream, tmp_path, "--head", "focal", "--seed", 1)

    assert said.exit_code == 0, said.stderr
    assert "the head is not recommended: 3 labelled anomalies in the test span cannot tell" in said.stderr
    assert "it is published as asked" in said.stderr
    shown = offbeat("models", "show", "--models", tmp_path).stdout
    assert re.search(r"head +focal, taught by \d+ labelled anomalies; not recommended", shown)
    loaded = ModelDirectory(tmp_path / "payments").load(ModelDirectory(tmp_path / "payments").versions()[0])
    assert loaded.scorer.head is not None
    page = (loaded_directory(tmp_path) / "report.html").read_text(encoding="utf-8")
    assert "<h2>Head</h2>" in page
    assert "<h2>Head</h2>" not in (loaded_directory(trained.models) / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"^head ", offbeat("models", "show", "--models", trained.models).stdout, re.MULTILINE)


def loaded_directory(models: Path) -> Path:
    directory = ModelDirectory(models / "payments")
    return directory.path(directory.versions()[0])


def test_labels_that_come_too_late_to_teach_a_head_are_refused_before_training(
    trained: Trained, tmp_path: Path
) -> None:
    stream, label = tmp_path / "late.toml", 'field = "is_fraud"'
    text = (trained.models.parent / "stream.toml").read_text()
    stream.write_text(text.replace(label, f'{label}\ndelay = "30d"'))

    said = train(trained.data, stream, tmp_path / "models", "--head", "evl")

    assert said.exit_code == 2
    assert "0 labelled anomalies that were known in time are too few to teach a head" in said.stderr
    assert not (tmp_path / "models").exists()


# --- topics ---


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["kafka:", "--output", "o.parquet"], "names no topic"),
        (["kafka:a", "kafka:b", "--output", "o.parquet"], "a topic is read alone"),
        (["kafka:a", "data.jsonl", "--output", "o.parquet"], "a topic is read alone"),
        (["kafka:a", "--output", "o.parquet"], "without the worker's room"),
        (["data.jsonl", "--output", "o.parquet", "--from", "2026-03-01"], "--from belongs to a topic"),
        (["data.jsonl", "--output", "o.parquet", "--partition", "1"], "--partition belongs to a topic"),
        (["data.jsonl", "--output", "o.parquet", "--kafka.client-id", "me"], "--kafka.client-id=me belongs to a topic"),
        (["--output", "o.parquet"], "give files, directories, or kafka:TOPIC"),
    ],
)
def test_what_cannot_be_a_topic_is_refused(trained: Trained, words: list[str], complaint: str) -> None:
    said = offbeat("score", *words, "--models", trained.models)

    assert said.exit_code == 2
    assert complaint in " ".join(said.output.replace("\u2502", " ").split())


def test_files_can_be_scored_as_data_and_as_input_alike(trained: Trained, tmp_path: Path) -> None:
    as_data = offbeat("score", trained.data, "-o", tmp_path / "a.jsonl", "--models", trained.models)
    as_input = offbeat("score", "--input", trained.data, "-o", tmp_path / "b.jsonl", "--models", trained.models)

    assert (as_data.exit_code, as_input.exit_code) == (0, 0), as_data.output + as_input.output
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_the_connection_of_a_topic_is_told_by_the_flags_of_the_worker(trained: Trained, tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def look_back(topic: str, flags: Sequence[str]) -> None:
        asked.append((topic, [*flags]))
        raise DataFileError("that is all")

    app = typer.Typer()
    mount(app, look_back)
    words = ["score", "kafka:payments", "-o", str(tmp_path / "o.parquet"), "--models", str(trained.models)]
    flags = ["--bootstrap-servers", "b:1", "--no-kafka.ssl-check-hostname", "--config", "w.toml", "--state.warm-up=3d"]

    said = CliRunner().invoke(app, [*words, *flags])

    assert said.exit_code == 2
    assert asked == [
        (
            "payments",
            [
                "--config=w.toml", "--kafka.bootstrap-servers=b:1", "--no-kafka.ssl-check-hostname",
                "--state.warm-up=3d",
            ],
        )
    ]  # fmt: skip
    for command in ("train", "calibrate", "explain", "features"):
        assert "--kafka.sasl-mechanism" in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
