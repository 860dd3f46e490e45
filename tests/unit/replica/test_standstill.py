from engineshed.replica.domain.standstill import Standstill

PATIENCE = 30


def after(rounds: int, *counters: float | None) -> tuple[Standstill, int]:
    """What is known after rounds of waiting, and in how many the counter was read."""
    still, read = Standstill(), iter(counters)
    reads = 0
    for _ in range(rounds):
        still = still.after_round(waiting=True)
        if still.wants_counter(PATIENCE):
            still = still.with_counter(next(read))
            reads += 1
        if still.is_dead(PATIENCE):
            break
    return still, reads


def test_a_counter_that_does_not_move_for_as_long_as_nothing_comes_is_death() -> None:
    still, reads = after(100, 7, 7)

    assert still.is_dead(PATIENCE)
    assert (still.rounds, reads) == (31, 2), "it is read at both ends, not in each round"


def test_a_counter_that_moves_begins_the_time_anew() -> None:
    still, _ = after(100, 7, 8, 8)

    assert still.rounds == 61


def test_an_engine_without_a_counter_is_never_dead_by_it() -> None:
    still, reads = after(100, None, None, None, None)

    assert not still.is_dead(PATIENCE)
    assert reads == 4
    appearing, _ = after(100, None, 7, 7)
    assert appearing.rounds == 61


def test_one_response_begins_it_all_anew() -> None:
    still, _ = after(30, 7)
    still = still.after_round(waiting=False)

    assert still == Standstill()
    assert not still.wants_counter(PATIENCE)
