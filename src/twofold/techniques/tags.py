"""The tags of which a plan can have one provider only, with the reason that two are refused together.

Techniques name tags in `Info.provides` and `Info.excludes`; reasons of their own stand in `Info.reasons`.
"""

from __future__ import annotations

ONLY_ONE = {
    "attention-method": "only one technique can decide what a query attends to, and how; name one of them",
    "cache-storage": "a cache entry is stored in one way; name one technique that changes it",
    "fleet": "one policy decides where requests run: name one technique over several instances",
    "layer-selection": "one technique decides which sublayers exist; name one of them",
    "prompt-filter": "a prompt is shortened once; name one technique that does it",
    "retention": "one technique decides which cache entries stay; name one that drops or merges them",
    "schedule": "one policy decides what runs next: name one technique that schedules",
    "swap": "a cache is swapped in one way: name one technique that does it",
    "weight-format": "a matrix has one stored format: name one technique that changes it",
}
