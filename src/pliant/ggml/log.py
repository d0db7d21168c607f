"""ggml's and llama.cpp's log lines, forwarded to the logger `pliant.ggml`."""

import ctypes
import logging
from typing import Any

logger = logging.getLogger("pliant.ggml")

# typedef void (*ggml_log_callback)(enum ggml_log_level level, const char * text, void * user_data)
LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

# GGML_LOG_LEVEL_NONE, DEBUG, INFO, WARN, ERROR; CONT goes on with the line before.
# ggml is talkative: its INFO is our DEBUG.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}


def _forward(level: int, text: bytes, _user_data: Any) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if line:
        logger.log(_LEVELS.get(level, logging.DEBUG), "%s", line)


forward_to_logging = LOG_CALLBACK(_forward)
