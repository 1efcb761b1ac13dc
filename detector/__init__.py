"""What trainer and worker must agree on, or scores go wrong; it knows no broker, no environment and no clock."""

from detector.alert_blocks import pack_alert_state, unpack_alert_state
from detector.alerting import Alerting, AlertState
from detector.codebook import Codebook
from detector.counterfactual import Change, Counterfactual, in_words
from detector.decode import Decoder, Echo, Reject, RejectReason
from detector.detector import Detector, Verdicts
from detector.drift import DriftCounts, DriftReference
from detector.encode import Encoder, Notes
from detector.errors import (
    AlertStateMismatch,
    ArtifactError,
    ArtifactRefusal,
    DetectorError,
    HistoryMismatch,
    SigningKeyError,
    StreamDefinitionError,
    TrainingDataError,
)
from detector.explain import Contribution, Explanation, ImageExplanation
from detector.head import Head
from detector.history import History, HistoryChanges, HistoryState, HistoryUndo
from detector.history_blocks import Block, count_blocks, entities_per_block, pack_block, unpack_block
from detector.history_file import pack_state, read_state
from detector.image_records import (
    ImageDecoder,
    ImageEncoder,
    decoder_of,
    is_images,
    records_of_images,
    stream_of_images,
)
from detector.image_scoring import ImageScorer
from detector.images import to_png
from detector.networks import Autoencoder, ConvolutionalAutoencoder, DenoisingAutoencoder, LinearAutoencoder
from detector.normal_scores import NormalScores
from detector.records import MessageBatch, Messages, Records
from detector.registry import ModelDirectory
from detector.rescaling import Rescaling
from detector.scoring import Scorer
from detector.severity import SEVERITIES, Severity, severity_of
from detector.signing import PrivateKey, PublicKeys, write_key_pair
from detector.stream import StreamDefinition
from detector.suppression import SuppressedBefore
from detector.tables import as_table, decode_table, records_of_matrix, stream_of_matrix
from detector.threshold import Threshold, check_resolvable, fit_threshold, refit_threshold

__all__ = [
    "SEVERITIES",
    "AlertState",
    "AlertStateMismatch",
    "Alerting",
    "ArtifactError",
    "ArtifactRefusal",
    "Autoencoder",
    "Block",
    "Change",
    "Codebook",
    "Contribution",
    "ConvolutionalAutoencoder",
    "Counterfactual",
    "Decoder",
    "DenoisingAutoencoder",
    "Detector",
    "DetectorError",
    "DriftCounts",
    "DriftReference",
    "Echo",
    "Encoder",
    "Explanation",
    "Head",
    "History",
    "HistoryChanges",
    "HistoryMismatch",
    "HistoryState",
    "HistoryUndo",
    "ImageDecoder",
    "ImageEncoder",
    "ImageExplanation",
    "ImageScorer",
    "LinearAutoencoder",
    "MessageBatch",
    "Messages",
    "ModelDirectory",
    "NormalScores",
    "Notes",
    "PrivateKey",
    "PublicKeys",
    "Records",
    "Reject",
    "RejectReason",
    "Rescaling",
    "Scorer",
    "Severity",
    "SigningKeyError",
    "StreamDefinition",
    "StreamDefinitionError",
    "SuppressedBefore",
    "Threshold",
    "TrainingDataError",
    "Verdicts",
    "as_table",
    "check_resolvable",
    "count_blocks",
    "decode_table",
    "decoder_of",
    "entities_per_block",
    "fit_threshold",
    "in_words",
    "is_images",
    "pack_alert_state",
    "pack_block",
    "pack_state",
    "read_state",
    "records_of_images",
    "records_of_matrix",
    "refit_threshold",
    "severity_of",
    "stream_of_images",
    "stream_of_matrix",
    "to_png",
    "unpack_alert_state",
    "unpack_block",
    "write_key_pair",
]
