"""What trainer and worker must agree on, or scores go wrong; it knows no broker, no environment and no clock."""

from detector.decode import Decoder, Echo, Reject, RejectReason
from detector.detector import Detector, Verdicts
from detector.encode import Encoder
from detector.errors import ArtifactError, ArtifactRefusal, DetectorError, StreamDefinitionError, TrainingDataError
from detector.explain import Contribution, Explanation
from detector.networks import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from detector.records import MessageBatch, Messages, Records
from detector.registry import ModelDirectory
from detector.scoring import Scorer
from detector.stream import StreamDefinition
from detector.tables import as_table, decode_table, records_of_matrix, stream_of_matrix
from detector.threshold import Threshold, check_resolvable, fit_threshold

__all__ = [
    "ArtifactError",
    "ArtifactRefusal",
    "Autoencoder",
    "Contribution",
    "Decoder",
    "DenoisingAutoencoder",
    "Detector",
    "DetectorError",
    "Echo",
    "Encoder",
    "Explanation",
    "LinearAutoencoder",
    "MessageBatch",
    "Messages",
    "ModelDirectory",
    "Records",
    "Reject",
    "RejectReason",
    "Scorer",
    "StreamDefinition",
    "StreamDefinitionError",
    "Threshold",
    "TrainingDataError",
    "Verdicts",
    "as_table",
    "check_resolvable",
    "decode_table",
    "fit_threshold",
    "records_of_matrix",
    "stream_of_matrix",
]
