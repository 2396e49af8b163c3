"""services.simulator.prompt_cache: marked prefixes are kept, read, and forgotten."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from services.core.clock import utc_now
from services.simulator.prefixes import Prefix, count_input_tokens
from services.simulator.prompt_cache import MAX_ENTRIES, CacheUse, PromptCache
from services.simulator.schemas import CountTokensRequest

MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
LONG = "word " * 2000


class Clock:
    """A time that passes when told to."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> PromptCache:
    """An empty cache."""
    return PromptCache(clock=clock)


def block(text: str, mark: dict[str, str] | None = None) -> dict[str, Any]:
    """A text block."""
    return {"type": "text", "text": text} | ({"cache_control": mark} if mark else {})


def request(
    *content: dict[str, Any], system: list[dict[str, Any]] | None = None, **changes: Any
) -> CountTokensRequest:
    """A question in blocks."""
    body = {
        "model": "claude-sonnet-5-5",
        "system": system or [],
        "messages": [{"role": "user", "content": list(content)}],
    }
    return CountTokensRequest.model_validate(body | changes)


def use(cache: PromptCache, asked: CountTokensRequest) -> CacheUse:
    """Look up and begin the answer; the sum is always what the prompt has."""
    found = cache.look_up(asked)
    cache.begin(found)
    assert count_input_tokens(asked) == (
        found.input_tokens + found.read_tokens + found.written_tokens
    )
    return found


def test_a_prefix_is_written_once_and_then_read(cache):
    """What comes after the mark is neither."""
    first = use(cache, request(block(LONG, MARK), block("One?")))
    second = use(cache, request(block(LONG, MARK), block("Two, then?")))

    assert first.written_5m_tokens == 2004
    assert first.read_tokens == 0
    assert first.input_tokens == 2
    assert (0, 2004, 4) == (second.written_tokens, second.read_tokens, second.input_tokens)
    assert cache.state()[0]["reads"] == 1


def test_it_can_be_read_only_once_the_answer_has_begun(cache):
    """Calls at the same moment all write."""
    asked = request(block(LONG, MARK))
    first, second = cache.look_up(asked), cache.look_up(asked)
    cache.begin(first)

    assert (0, 2004) == (second.read_tokens, second.written_tokens)
    assert cache.look_up(asked).read_tokens == 2004


@pytest.mark.parametrize(
    "other",
    [
        request(block("Other " + LONG, MARK)),
        request(block(LONG, MARK), model="claude-haiku-5-5"),
        request(block(LONG, MARK), system=[block("Be brief.")]),
        request(
            block(LONG, MARK),
            output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        ),
    ],
)
def test_what_differs_before_the_mark_is_another_prefix(cache, other):
    """Text, system prompt, schema or model."""
    use(cache, request(block(LONG, MARK)))

    assert use(cache, other).read_tokens == 0


def test_short_prefixes_are_not_cached(cache):
    """1,024 tokens are needed, of the whole prefix and not of the block."""
    short = use(cache, request(block("word " * 1019, MARK)))
    enough = use(cache, request(block("Be brief.", MARK), system=[block("word " * 1020)]))

    assert (0, 1023) == (short.written_tokens, short.input_tokens)
    assert enough.written_tokens == 1020 + 4 + 3 + 4


@pytest.mark.parametrize(("mark", "ttl_s"), [(MARK, 300), (HOUR, 3600)])
def test_a_prefix_lives_on_with_each_use(cache, clock, mark, ttl_s):
    """Its time begins anew; then it is over."""
    asked = request(block(LONG, mark))
    use(cache, asked)
    for _ in range(3):
        clock.pass_s(ttl_s - 1)
        assert use(cache, asked).read_tokens == 2004
    clock.pass_s(ttl_s)

    assert [] == cache.state()
    assert use(cache, asked).read_tokens == 0


def test_several_marks_make_several_prefixes(cache):
    """The longest that is known is read; the rest up to the last mark is written, by its time."""
    system = [block(LONG, HOUR)]
    first = use(cache, request(block(LONG, MARK), block("One?"), system=system))
    second = use(cache, request(block("Other " + LONG, MARK), system=system))

    assert (2004, 2004) == (first.written_1h_tokens, first.written_5m_tokens)
    assert (2004, 2005, 0) == (
        second.read_tokens,
        second.written_5m_tokens,
        second.written_1h_tokens,
    )


def test_a_mark_further_on_finds_what_was_written_before(cache):
    """A conversation that grows reads its beginning, up to 20 blocks back."""
    use(cache, request(block(LONG, MARK)))
    near = [block(LONG), *[block(f"Turn {number}") for number in range(18)], block("Now", MARK)]
    far = [block(LONG), *[block(f"Turn {number}") for number in range(19)], block("Now", MARK)]

    assert cache.look_up(request(*near)).read_tokens == 2004
    assert cache.look_up(request(*far)).read_tokens == 0


def test_the_last_block_can_be_marked_automatically(cache):
    """cache_control of the request itself."""
    asked = request(block(LONG), block("One?"), cache_control=HOUR)

    assert use(cache, asked).written_1h_tokens == 2006
    assert use(cache, asked).read_tokens == 2006


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([block("x", MARK)] * 5, "A maximum of 4 blocks"),
        ([block("", MARK)], "empty text blocks"),
        ([block("x", MARK), block("y", HOUR)], "must not come after"),
        ([block("x", {"type": "lasting"})], "ephemeral"),
        ([block("x", {"type": "ephemeral", "ttl": "1d"})], "5m"),
    ],
)
def test_wrong_marks_are_refused(content, message):
    """As the API refuses them."""
    with pytest.raises(ValueError, match=message):
        request(*content)


def test_the_cache_does_not_grow_for_ever(cache):
    """The oldest go first."""
    for number in range(MAX_ENTRIES + 1):
        prefix = Prefix(number.to_bytes(32, "big"), 2000, "5m")
        cache.begin(CacheUse(0, model="claude-sonnet-5-5", prefixes=(prefix,)))

    kept = [int(entry["prefix_sha256"], 16) for entry in cache.state()]
    assert list(range(MAX_ENTRIES // 2 + 1, MAX_ENTRIES + 1)) == kept


def test_clear_forgets_all(cache):
    """A test begins with an empty cache."""
    use(cache, request(block(LONG, MARK)))

    cache.clear()

    assert [] == cache.state()
    assert use(cache, request(block(LONG, MARK))).read_tokens == 0
