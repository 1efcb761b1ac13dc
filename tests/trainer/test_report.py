"""The report of a fit: complete, self-contained, and silent about what is sensitive."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from detector import Detector, StreamDefinition
from tests.trainer import histories
from tests.trainer.conftest import STREAM_TOML
from tests.trainer.payments import write_jsonl
from trainer.datasets import RejectExample
from trainer.fitting import FitReport, FitSettings, fit_detector
from trainer.loading import Dataset, load
from trainer.report import history_rows, quality_rows, record_rows, render

Fit = tuple[Detector, FitReport, Dataset]


@pytest.fixture(scope="module")
def labelled(payments_dir: Path) -> Fit:
    stream = StreamDefinition.from_toml(STREAM_TOML)
    dataset = load([payments_dir / "payments.jsonl"], stream)
    settings = FitSettings(most_steps=100)
    return (*fit_detector(dataset.records, stream, settings), dataset)


def test_every_row_that_was_read_has_its_line_in_the_table(labelled: Fit) -> None:
    _, report, dataset = labelled
    dataset = replace(dataset, rows_read=dataset.rows_read + 3, rejected={"not_json": 3})  # type: ignore[dict-item]

    rows = {row.name: int(row.value.replace(",", "")) for row in record_rows(report, dataset)}

    assert rows.pop("rows read") == 603
    assert sum(rows.values()) == 603


def test_quality_stands_beside_pca(labelled: Fit) -> None:
    _, report, _ = labelled
    assert report.evaluation is not None

    head, *body = quality_rows(report.evaluation, "card")

    assert head == ["", "autoencoder", "PCA"]
    assert {"AUROC", "average precision"} <= {row[0] for row in body}
    assert any(row[0].startswith("card precision@100") for row in body)


def test_the_page_shows_loss_scores_features_and_examples(labelled: Fit) -> None:
    page = render(*labelled).decode()

    assert page.count("<svg") == 2
    for part in ("held out: threshold", "AUROC", "PCA", "amount", "score ratio", "known anomaly", "Losses by step"):
        assert part in page, part


def test_the_page_loads_nothing_from_elsewhere(labelled: Fit) -> None:
    page = render(*labelled).decode()

    assert not re.search(r"<(script|link|img|iframe)|(src|href)=[\"']?http", page)


def test_no_value_of_a_sensitive_field_is_on_the_page(labelled: Fit) -> None:
    page = render(*labelled).decode()

    assert "pin" in page
    assert "secret-" not in page


def test_a_sensitive_key_is_not_on_the_page(labelled: Fit) -> None:
    detector, report, dataset = labelled
    hidden = Detector(
        detector.stream.model_copy(update={"sensitive": ("card", "pin")}), detector.encoder, detector.scorer,
        detector.threshold, detector.normal_scores, facts=detector.facts,
    )  # fmt: skip

    assert "card (sensitive)" in render(hidden, report, dataset).decode()


def test_names_from_the_data_are_text_and_not_markup(labelled: Fit) -> None:
    detector, report, dataset = labelled
    example = RejectExample(Path("<script>.csv"), 1, "not_json", "bad")  # type: ignore[arg-type]
    spoiled = replace(dataset, rejected={"not_json": 1}, examples=(example,))  # type: ignore[dict-item]

    page = render(detector, replace(report, feature_errors={"<b>&": 1.0}), spoiled).decode()

    assert "<script>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_the_same_fit_gives_the_same_page(labelled: Fit) -> None:
    assert render(*labelled) == render(*labelled)


def test_a_fit_without_labels_and_steps_has_a_page_too(payments_dir: Path) -> None:
    stream = StreamDefinition.from_toml(STREAM_TOML).model_copy(update={"label": None})
    dataset = load([payments_dir / "payments.jsonl"], stream)
    detector, report = fit_detector(dataset.records, stream, FitSettings(network="pca"))

    page = render(detector, report, dataset).decode()

    assert page.count("<svg") == 1
    assert "of the newest 600 records" in page


def test_a_fit_without_a_test_span_says_why_it_has_none(labelled: Fit) -> None:
    _, report, dataset = labelled
    untested = replace(report, counts=report.counts | {"test": 0})

    remarks = [row.remark for each in (report, untested) for row in record_rows(each, dataset) if "test" in row.name]

    assert remarks == ["the newest records, known anomalies included", "no record is labelled anomalous"]


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    folder, content = tmp_path_factory.mktemp("cards"), histories.rows(700)
    earlier = write_jsonl(folder / "1.jsonl", content[:100])
    dataset = load([write_jsonl(folder / "2.jsonl", [*content[100:], "oops"])], histories.STREAM, earlier=[earlier])
    settings = FitSettings(network="pca")
    return (*fit_detector(dataset.records, histories.STREAM, settings, history=dataset.history), dataset)


def test_records_that_are_history_alone_have_their_line(remembering: Fit) -> None:
    _, report, dataset = remembering

    rows = {row.name: int(row.value.replace(",", "")) for row in record_rows(report, dataset)}

    assert rows["replayed only"] == 144  # 100 of the earlier file and the rest of the first two days
    assert rows.pop("rows read") == 701
    assert sum(rows.values()) == 701


def test_what_history_takes_is_said(remembering: Fit) -> None:
    detector = remembering[0]
    assert detector.history is not None

    rows = {row.name: row.value for row in history_rows(detector)}
    page = render(*remembering).decode()

    assert rows["longest window"] == "2d"
    assert rows["memory of an entity"] == f"{detector.history.row_bytes} bytes"
    assert rows["mode"] == "buckets"
    assert "<h2>History</h2>" in page


def test_a_detector_without_history_says_nothing_of_it(labelled: Fit) -> None:
    assert history_rows(labelled[0]) == []
    assert "<h2>History</h2>" not in render(*labelled).decode()
