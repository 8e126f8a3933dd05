"""How much a key may: requests and tokens a minute, requests at once, bytes kept, jobs waiting.

The rates are token buckets: a bucket holds a minute's worth, each request takes from it, and it fills up evenly. They live in the memory
of one process and begin full, so several API processes give a key as many times its rate. Bytes and jobs are counted in the database.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from luthier.core.errors import SpecError, TooMuch, did_you_mean

MOST_KEYS = 10_000
"""Keys remembered before those are forgotten whose buckets are full again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may. The numbers keep a broken client from taking everything, not a busy one from working.

    Attributes:
        requests_per_minute, tokens_per_minute: rates. concurrent: requests at once.
        storage_bytes: files and parts kept by the key's project. jobs: jobs of the project that wait or run.
    """

    requests_per_minute: int = 3_000
    tokens_per_minute: int = 5_000_000
    concurrent: int = 100
    storage_bytes: int = 100 * 2**30
    jobs: int = 1_000

    def changed(self, own: dict[str, Any]) -> Limits:
        """These with a key's `own` numbers in place.

        Raises:
            SpecError: there is no such limit, or it is no whole number from 0 up (``bad_limit``).
        """
        for name, value in own.items():
            if name not in asdict(self):
                raise SpecError(f"There is no limit {name!r}.", where="limits", remedy=did_you_mean(name, asdict(self)), code="bad_limit")
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SpecError(f"{name} is a whole number from 0 up, not {value!r}.", where="limits", remedy="", code="bad_limit")
        return replace(self, **own)


@dataclass(slots=True)
class Bucket:
    """What is left of a minute's worth. It may fall below nothing when a request took more than it had said."""

    most: float
    left: float
    at: float

    def fill(self, now: float, most: float) -> None:
        """Let the time since the last look flow in; `most` may have been changed meanwhile."""
        self.left = min(most, self.left + (now - self.at) * most / 60 + max(0.0, most - self.most))
        self.most, self.at = most, now

    def wait(self, amount: float) -> float:
        """Seconds until `amount` can be taken; infinite where it never can."""
        if amount <= self.left:
            return 0.0
        return math.inf if amount > self.most else (amount - self.left) * 60 / self.most

    @property
    def reset(self) -> float:
        """Seconds until it is full."""
        return (self.most - self.left) * 60 / self.most if self.most else 0.0


@dataclass(slots=True)
class _Account:
    requests: Bucket
    tokens: Bucket
    open: int = 0


@dataclass(slots=True)
class Grant:
    """A request that was let in. Close it when the answer has been sent: ``with limiter.admit(...) as grant``.

    Attributes:
        headers: what clients read: ``x-ratelimit-limit-requests``, ``-remaining-``, ``-reset-``, and the same for tokens.
    """

    headers: dict[str, str]
    _limiter: Limiter = field(repr=False)
    _account: _Account = field(repr=False)
    _estimate: int

    def spent(self, tokens: int) -> None:
        """Replace the estimate of tokens by what the request really took."""
        with self._limiter.lock:
            self._account.tokens.left += self._estimate - tokens
            self._estimate = tokens

    def close(self) -> None:
        """The request is over. A second time changes nothing."""
        with self._limiter.lock:
            self._account.open -= 1
        self._account = _Account(Bucket(0, 0, 0), Bucket(0, 0, 0))

    def __enter__(self) -> Grant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Limiter:
    """The rates of all keys, for all threads of a process.

    Args:
        clock: seconds that never go back; tests turn it by hand.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.lock = clock, threading.Lock()
        self._accounts: dict[str, _Account] = {}

    def admit(self, key: str, limits: Limits, *, tokens: int = 0) -> Grant:
        """Let a request in.

        Args:
            key: whose. tokens: how many it will take at least, as far as that is known; `Grant.spent` corrects it.

        Raises:
            TooMuch: not now (``rate_limit``), with `retry_after` and the headers; or never, because it alone passes the limit.
        """
        with self.lock:
            account = self._account(key, limits)
            waits = {
                f"{limits.requests_per_minute:,} requests a minute": account.requests.wait(1),
                f"{limits.tokens_per_minute:,} tokens a minute": account.tokens.wait(tokens),
                f"{limits.concurrent:,} requests at once": 0.0 if account.open < limits.concurrent else 1.0,
            }
            which = max(waits, key=lambda name: waits[name])
            if waits[which]:
                raise _refusal(which, waits[which], _headers(account))
            account.requests.left -= 1
            account.tokens.left -= tokens
            account.open += 1
            return Grant(_headers(account), self, account, tokens)

    def _account(self, key: str, limits: Limits) -> _Account:
        now = self.clock()
        if key not in self._accounts:
            if len(self._accounts) >= MOST_KEYS:
                self._forget(now)
            requests, tokens = float(limits.requests_per_minute), float(limits.tokens_per_minute)
            self._accounts[key] = _Account(Bucket(requests, requests, now), Bucket(tokens, tokens, now))
        account = self._accounts[key]
        account.requests.fill(now, limits.requests_per_minute)
        account.tokens.fill(now, limits.tokens_per_minute)
        return account

    def _forget(self, now: float) -> None:
        """A key that has not asked for a minute has full buckets, as a new one has (unless it had gone below nothing)."""
        self._accounts = {
            key: account
            for key, account in self._accounts.items()
            if account.open or any(bucket.reset > now - bucket.at for bucket in (account.requests, account.tokens))
        }


def _refusal(which: str, wait: float, headers: dict[str, str]) -> TooMuch:
    if wait == math.inf:
        return TooMuch(f"This request alone is more than {which}.", remedy="Make it smaller.", code="rate_limit", headers=headers)
    seconds = math.ceil(wait)
    return TooMuch(
        f"The key's limit is {which}.",
        remedy=f"Try again in {seconds} s.",
        code="rate_limit",
        retry_after=wait,
        headers=headers | {"retry-after": str(seconds), "retry-after-ms": str(math.ceil(wait * 1000))},
    )


def _headers(account: _Account) -> dict[str, str]:
    headers = {}
    for name, bucket in (("requests", account.requests), ("tokens", account.tokens)):
        headers[f"x-ratelimit-limit-{name}"] = str(int(bucket.most))
        headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.left)))
        headers[f"x-ratelimit-reset-{name}"] = _duration(bucket.reset)
    return headers


def _duration(seconds: float) -> str:
    """As the wire writes times: ``120ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
