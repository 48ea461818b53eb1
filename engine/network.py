"""The Hugging Face Hub: whether it answers, asked once, so that nobody waits for the retries of its libraries in vain.

Comes from: `launch.offline` and the environment. Goes to: the Hub's libraries, which are told to use their cache alone
where the Hub does not answer; `doctor`.
"""

from __future__ import annotations

import os
import sys
import threading
import urllib.error
import urllib.request

PATIENCE_SECONDS = 5.0
"""How long the Hub may take to say anything at all."""
VARIABLE = "HF_HUB_OFFLINE"

_asked: list[str] = []
"""What was wrong when the Hub was asked, "" for nothing; empty where it was not."""


def settle(offline: bool = False) -> str:
    """See to it that the Hub's libraries ask the network only where it answers. To be called before they are used.

    Args:
        offline: do not even ask.

    Returns:
        Why the Hub is out of reach and only its cache is used; "" where it answers.
    """
    if not _asked:
        known = f"{VARIABLE} is set" if is_offline() else "launch.offline is set" if offline else None
        _asked.append(ask(PATIENCE_SECONDS) if known is None else known)
    if _asked[0]:
        _use_cache_alone()
    return _asked[0]


def is_offline() -> bool:
    """Whether the Hub's libraries are told to stay away from the network."""
    return os.environ.get(VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def ask(seconds: float) -> str:
    """What is wrong with the way to the Hub; "" where it answers within `seconds`."""
    answer: list[str] = []
    # In a thread: the time that a name's look-up takes cannot be limited otherwise.
    asking = threading.Thread(target=lambda: answer.append(_request(endpoint(), seconds)), daemon=True)
    asking.start()
    asking.join(seconds + 0.5)
    return answer[0] if answer else f"no answer within {seconds:g} s"


def _request(url: str, seconds: float) -> str:
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "loraworkbench"})
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        return "" if error.code < 500 else f"it answers {error.code}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def _use_cache_alone() -> None:
    """Set the variable, and, in libraries that have read it already, what they made of it."""
    os.environ[VARIABLE] = "1"
    for module, name in (("huggingface_hub.constants", VARIABLE), ("datasets.config", VARIABLE)):
        if module in sys.modules:
            setattr(sys.modules[module], name, True)
