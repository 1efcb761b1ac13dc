"""Bad input, quickly: what the coverage-guided fuzzer once found, and what hypothesis thinks of in a second or two."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector import Decoder, ImageDecoder, Messages, Records, Reject
from tests.fuzz import targets
from tests.fuzz.targets import (
    BETWEEN,
    DEFINITIONS,
    TARGETS,
    TOMBSTONE,
    Broken,
    artifact,
    blocks,
    check_batch,
    decoder,
    definition,
    seeds,
    streams,
)
from tests.payments import message

CORPUS = sorted((Path(__file__).parent / "corpus").rglob("*"))
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
PATHS = ("payment_id", "at", "amount", "card.number", "card.limit", "shop.kind", "fraud", "a.b.id", "a.key", "arrived",
         "n.text", "n.must", "n.both", "n.floor", "local", "seconds", "segment", "id", "scan.image")  # fmt: skip
times = st.sampled_from([
    "2026-03-29T02:30:00", "2026-03-29T02:30:00+24:00", "9999-12-31T23:59:59.999999", "0001-01-01", "2026-02-30",
    "2026-03-01T24:00:00", "20260301", "2026-W10", "0" * 40, 1.7e18, -1e308, 253402300799999, 1e400,
])  # fmt: skip


@pytest.mark.parametrize("path", [path for path in CORPUS if path.is_file()], ids=lambda path: path.name)
def test_an_input_that_once_broke_a_promise_keeps_all_of_them(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_what_the_fuzzer_begins_with_keeps_all_promises(target: str) -> None:
    for seed in seeds(target)[:12]:
        TARGETS[target](seed)


class Forgetful:
    """A decoder that loses the first reject of a batch."""

    def __init__(self, honest: Decoder | ImageDecoder) -> None:
        self.honest = honest

    def decode(self, batch: Messages) -> tuple[Records, list[Reject]]:
        records, rejects = self.honest.decode(batch)
        return records, rejects[1:]


def test_a_promise_that_does_not_hold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = targets.decoder_of
    monkeypatch.setattr(targets, "decoder_of", lambda stream: Forgetful(honest(stream)))

    with pytest.raises(Broken, match="1 values, 0 records and 0 rejects"):
        check_batch(streams()[0], [b"not json"])


@QUICK
@given(st.integers(0, len(DEFINITIONS) - 1), st.lists(st.dictionaries(st.sampled_from(PATHS), scalars | times | trees)))
def test_any_values_of_any_fields_become_records_or_rejects(which: int, given_records: list[dict[str, object]]) -> None:
    values = []
    for flat in given_records:
        nested: dict[str, object] = {}
        for path, value in flat.items():
            *parents, leaf = path.split(".")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})  # type: ignore[assignment]
            node[leaf] = value
        values.append(json.dumps(nested, ensure_ascii=False).encode("utf-8", "surrogatepass"))

    check_batch(streams()[which], list(values))


@QUICK
@given(st.integers(0, 255), st.lists(st.binary(max_size=60) | st.sampled_from([message(1), TOMBSTONE, b"[" * 65])))
def test_any_bytes_become_records_or_rejects(which: int, values: list[bytes]) -> None:
    decoder(bytes([which]) + BETWEEN.join(values))


@QUICK
@given(st.sampled_from(DEFINITIONS), st.integers(0, 400), st.integers(0, 40), st.text(max_size=30))
def test_a_damaged_definition_is_refused_or_reads_the_same_again(text: str, at: int, cut: int, put: str) -> None:
    definition((text[:at] + put + text[at + cut :]).encode("utf-8", "surrogatepass"))


@settings(QUICK, max_examples=25)
@given(st.integers(0, 5), st.binary(max_size=30))
def test_an_artifact_that_was_changed_with_its_hashes_is_refused_or_does_its_work(way: int, changes: bytes) -> None:
    artifact(bytes([way]) + changes)


@QUICK
@given(st.integers(0, 3), st.integers(0, 200), st.binary(max_size=12), st.integers(0, 12))
def test_blocks_that_were_changed_with_their_checksum_are_refused_or_carried_on_with(
    way: int, at: int, put: bytes, cut: int
) -> None:
    content = seeds("blocks")[way][1:]

    blocks(bytes([way]) + content[:at] + put + content[at + cut :])


def test_a_block_without_its_checksum_is_refused() -> None:
    from detector import HistoryMismatch, unpack_block
    from tests.fuzz.targets import histories

    content = seeds("blocks")[0][1:]
    with pytest.raises(HistoryMismatch, match="checksum"):
        unpack_block(histories()[0], (zlib.crc32(content) ^ 1).to_bytes(4, "big") + content)
