"""Lines by key: who was served least is next, and nobody saves up turns."""

from luthier.inference.serving.turns import Turns


def drain(turns: Turns[str], count: int, cost: int = 10) -> list[str]:
    found = []
    for _ in range(count):
        who = turns.next()
        assert who is not None
        turns.took()
        turns.served(who[0], read=cost)
        found.append(who)
    return found


def test_a_busy_key_does_not_hold_up_others() -> None:
    turns: Turns[str] = Turns()
    for i in range(6):
        turns.add("a", f"a{i}")
    assert drain(turns, 2) == ["a0", "a1"]
    turns.add("b", "b0")
    turns.add("b", "b1")
    assert drain(turns, 6) == ["b0", "a2", "b1", "a3", "a4", "a5"]
    assert len(turns) == 0 and turns.next() is None


def test_what_is_served_counts_by_tokens_and_written_ones_double() -> None:
    turns: Turns[str] = Turns()
    for key in "ab":
        for i in range(3):
            turns.add(key, f"{key}{i}")
    turns.served("a", read=100, written=0)
    turns.served("b", read=0, written=60)
    assert [turns.next()] == ["a0"]


def test_who_was_away_begins_where_the_others_are() -> None:
    turns: Turns[str] = Turns()
    for i in range(50):
        turns.add("a", f"a{i}")
    drain(turns, 40)
    turns.add("b", "b0")
    for i in range(1, 9):
        turns.add("b", f"b{i}")
    assert [who[0] for who in drain(turns, 10)].count("b") in (5, 6)


def test_who_is_sent_back_is_first_in_line_and_who_leaves_is_gone() -> None:
    turns: Turns[str] = Turns()
    for i in range(3):
        turns.add("a", f"a{i}")
    assert turns.leave(lambda who: who == "a1") == ["a1"]
    turns.add("a", "back", first=True)
    assert list(turns) == ["back", "a0", "a2"]


def test_many_keys_leave_nothing_behind() -> None:
    turns: Turns[str] = Turns()
    for i in range(5000):
        turns.add(f"key{i}", "x")
        assert turns.next() == "x"
        turns.took()
    assert len(turns._served) < 200
