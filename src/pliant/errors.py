"""Every error pliant raises on purpose.

PliantError                     something pliant can explain in one sentence
├── RequestError                the caller's request cannot be served as asked (HTTP 400)
│   ├── ContextOverflowError    prompt or answer does not fit the model's context
│   ├── BusyError               every context slot is in use; try again later (HTTP 429)
│   ├── MemoryBudgetError       a context does not fit the memory set for contexts (HTTP 507)
│   ├── UnknownLevelError       the bundle has no such level
│   ├── SloError                an SLO value outside its range
│   │   └── SloUnreachableError  one that no strategy is predicted to meet
│   ├── UnknownContextError     the app has no context of this id (HTTP 404)
│   ├── SamplingError           a sampling option out of range, or a grammar that does not parse
│   └── TemplateError           the chat template cannot render these messages
├── BundleError                 a bundle or GGUF file is missing, damaged or not understood
│   ├── BundleNotFoundError     no such bundle, file or built-in model (HTTP 404)
│   ├── CorruptFileError        truncated, altered or malformed file
│   └── UnsupportedModelError   well-formed, but an architecture or type pliant does not run
├── PlanError                   a Plan that the model cannot run
├── GgmlError                   the native library is missing, of the wrong version, or failed
│   ├── LibraryError            not found, or not a supported version
│   └── TensorError             a shape or type that ggml would abort on
├── ContextsError               the folder of persistent contexts cannot be used
│   ├── ContextsInUseError      another process has it (HTTP 503)
│   ├── JournalError            the journal cannot be read, or is not one that pliant knows
│   ├── JournalWriteError       nothing more can be journaled: disk full or read-only (HTTP 507)
│   ├── ChunkMissingError       a stored chunk is not there: recompute it
│   └── ChunkCorruptError       a stored chunk is damaged: recompute it
├── ChunkError                  keys and values that cannot be encoded, or bytes that are no chunk
├── HubError                    a model cannot be downloaded (HTTP 502)
├── ElastifyError               the offline pipeline cannot go on
├── LabelError                  a file of labels, tasks or text pairs cannot be used
├── TrainingError               what pliant trains cannot be built, trained or kept as asked
└── MissingExtraError           an optional dependency is not installed
"""


class PliantError(Exception):
    """Base of all; `http_status`, `code` and `exit_code` are what each edge reports."""

    http_status = 500
    code = "internal_error"
    exit_code = 2


class RequestError(PliantError):
    http_status = 400
    code = "invalid_request"


class ContextOverflowError(RequestError):
    """Raised with `needed_tokens` and `available_tokens`."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, needed_tokens: int, available_tokens: int) -> None:
        super().__init__(message)
        self.needed_tokens = needed_tokens
        self.available_tokens = available_tokens


class BusyError(RequestError):
    http_status = 429
    code = "busy"


class MemoryBudgetError(RequestError):
    """Raised with `needed_bytes` and `budget_bytes`."""

    http_status = 507
    code = "context_memory_exceeded"

    def __init__(self, message: str, *, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes


class UnknownLevelError(RequestError):
    code = "unknown_level"


class SloError(RequestError):
    code = "invalid_slo"


class SloUnreachableError(SloError):
    """Raised with the `problem` and `reachable`, the arguments of the smallest Slo for it."""

    code = "slo_unreachable"

    def __init__(self, problem: str, *, reachable: dict[str, float]) -> None:
        smallest = ", ".join(f"{name}={value}" for name, value in reachable.items())
        super().__init__(f"{problem}; the smallest SLO that can be met is {smallest}")
        self.problem = problem
        self.reachable = reachable


class UnknownContextError(RequestError):
    http_status = 404
    code = "context_not_found"


class SamplingError(RequestError):
    code = "invalid_sampling"


class TemplateError(RequestError):
    code = "invalid_messages"


class BundleError(PliantError):
    code = "invalid_bundle"


class BundleNotFoundError(BundleError):
    http_status = 404
    code = "model_not_found"


class CorruptFileError(BundleError):
    code = "corrupt_file"


class UnsupportedModelError(BundleError):
    code = "unsupported_model"


class PlanError(PliantError):
    http_status = 400
    code = "invalid_plan"


class GgmlError(PliantError):
    code = "ggml_error"


class LibraryError(GgmlError):
    code = "library_error"


class TensorError(GgmlError):
    code = "tensor_error"


class ContextsError(PliantError):
    code = "contexts_error"


class ContextsInUseError(ContextsError):
    http_status = 503
    code = "contexts_in_use"


class JournalError(ContextsError):
    code = "journal_error"


class JournalWriteError(ContextsError):
    http_status = 507
    code = "journal_not_writable"


class ChunkMissingError(ContextsError):
    code = "chunk_missing"


class ChunkCorruptError(ContextsError):
    code = "chunk_corrupt"


class ChunkError(PliantError):
    code = "chunk_error"


class HubError(PliantError):
    http_status = 502
    code = "hub_error"


class ElastifyError(PliantError):
    code = "elastify_error"


class LabelError(PliantError):
    code = "label_error"


class TrainingError(PliantError):
    code = "training_error"


class MissingExtraError(PliantError):
    code = "missing_extra"
