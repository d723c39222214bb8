"""Hash JSON values, independently of the order of keys."""

import hashlib
import json
from typing import Any

encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def canonical(value: Any) -> str:
    """Return canonical JSON: equal values give equal text, whatever the order of keys."""
    return encode(value)


def digest(value: Any) -> str:
    """Return 16 hex digits of the canonical JSON's SHA-256."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
